// Makes tests/data/kafka-client.txt: what the Java client says about partitions and record batches.
//
//   java -cp 'DIRECTORY_WITH_KAFKA_CLIENTS_AND_ITS_DEPENDENCIES/*' KafkaClientSays.java > kafka-client.txt
//
// `murmur2 <key in hex, or -> <hash> <partition of 12> <partition of 7>` and `batch <name> <bytes in hex>`.
// The records of each batch stand a second time in tests/wire/record_batch.rs.

import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.record.internal.SimpleRecord;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.utils.Utils;

class KafkaClientSays {
    static final long T = 1_760_000_000_123L;

    public static void main(String[] args) {
        for (int len = 0; len < 70; len++) {
            byte[] key = pattern(len, 37, 11 * len + 3);
            System.out.println("murmur2 " + (len == 0 ? "-" : hex(key)) + " " + Utils.murmur2(key) + " "
                    + BuiltInPartitioner.partitionForKey(key, 12) + " " + BuiltInPartitioner.partitionForKey(key, 7));
        }
        batch("one", 4_711, 3, 0, new SimpleRecord(T, bytes("k"), bytes("v")));
        batch("nulls", 0, 0, 17,
                new SimpleRecord(T, (byte[]) null, null, new Header[] {new RecordHeader("none", (byte[]) null)}),
                new SimpleRecord(T, new byte[0], new byte[0], new Header[] {new RecordHeader("", new byte[0])}));
        batch("times", Long.MAX_VALUE, Short.MAX_VALUE, Integer.MAX_VALUE,
                new SimpleRecord(T, bytes("a"), bytes("1")), new SimpleRecord(T - 70_000, bytes("b"), bytes("2")),
                new SimpleRecord(T + 9_000_000_000L, bytes("c"), bytes("3")), new SimpleRecord(0, bytes("d"), bytes("4")));
        batch("headers", 9, 1, 5, new SimpleRecord(T, bytes("key"), bytes("value"), new Header[] {
                new RecordHeader("id", bytes("0b7b6f0e")), new RecordHeader("grün", pattern(200, 7, 1)),
                new RecordHeader("id", bytes("twice"))}));
        List<SimpleRecord> many = new ArrayList<>();
        for (int i = 0; i < 150; i++) {
            many.add(new SimpleRecord(T + i, pattern(i % 9, 5, i), pattern(i == 70 ? 9_000 : i, 3, i)));
        }
        batch("many", 1_000, 2, 40, many.toArray(new SimpleRecord[0]));
    }

    static void batch(String name, long producerId, int epoch, int baseSequence, SimpleRecord... records) {
        MemoryRecords batch = MemoryRecords.withRecords(RecordBatch.MAGIC_VALUE_V2, 0L, Compression.NONE,
                TimestampType.CREATE_TIME, producerId, (short) epoch, baseSequence,
                RecordBatch.NO_PARTITION_LEADER_EPOCH, true, records);
        System.out.println("batch " + name + " " + hex(Utils.toArray(batch.buffer())));
    }

    static byte[] pattern(int len, int step, int start) {
        byte[] bytes = new byte[len];
        for (int i = 0; i < len; i++) {
            bytes[i] = (byte) (start + i * step);
        }
        return bytes;
    }

    static byte[] bytes(String text) {
        return Utils.utf8(text);
    }

    static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }
}
