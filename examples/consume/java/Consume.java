import java.sql.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.CompletableFuture;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Writes an invoice for each event once. */
public class Consume {
    static void apply(Connection database, ConsumerRecord<String, String> record) throws SQLException {
        Header pbPos = record.headers().lastHeader("pb-pos");
        String invoice = "INSERT INTO invoices (order_id, content) VALUES (?, ?::jsonb)";
        try (var accept = database.prepareStatement("SELECT pillarbox.accept('billing', ?, ?, ?, ?)");
                var insert = database.prepareStatement(invoice)) {
            accept.setString(1, record.topic());
            accept.setInt(2, record.partition());
            accept.setString(3, pbPos == null ? null : new String(pbPos.value()));
            accept.setLong(4, record.offset());
            ResultSet accepted = accept.executeQuery();
            if (accepted.next() && accepted.getBoolean(1)) {
                // The effect: in the same transaction, or it is not once.
                insert.setString(1, record.key());
                insert.setString(2, record.value());
                insert.executeUpdate();
            }
        }
        database.commit();
    }

    public static void main(String[] arguments) throws SQLException {
        Map<String, String> env = System.getenv();
        String url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
        Map<String, Object> settings = Map.of("bootstrap.servers", env.get("KAFKA_BROKERS"),
                "group.id", env.get("KAFKA_GROUP"), "auto.offset.reset", "earliest",
                "isolation.level", "read_committed", "enable.auto.commit", "false");
        CompletableFuture<Void> left = new CompletableFuture<>();
        StringDeserializer text = new StringDeserializer();
        try (Connection database = DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"));
                KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, text, text)) {
            Runtime.getRuntime().addShutdownHook(new Thread(() -> { consumer.wakeup(); left.join(); }));
            database.setAutoCommit(false);
            consumer.subscribe(List.of(env.get("KAFKA_TOPIC")));
            while (true) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) apply(database, record);
                consumer.commitAsync(); // After the effects. A hint: the database knows what was applied.
            }
        } catch (WakeupException terminated) {
            // Closed above: the group gives its partitions to others at once.
        } catch (SQLException error) {
            if (error.getSQLState() == null || !error.getSQLState().startsWith("PB")) throw error;
            System.err.println("stopped: " + error.getSQLState() + " " + error.getMessage());
            Runtime.getRuntime().halt(65); // A gap or another history: starting again does not help, a person decides.
        } finally { left.complete(null); }
    }
}
