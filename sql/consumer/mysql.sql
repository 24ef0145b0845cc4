-- The consumer's half of exactly once for MySQL 8 and MariaDB: the rule of 0001_consumer.up.sql, as a
-- procedure, because a function that writes needs more than the usual rights where the binary log is on.
-- One collation everywhere, in the columns and in what is compared with them: names differ by case.
-- For the client program: mysql the_database < mysql.sql
--
--   START TRANSACTION;
--   CALL pillarbox_accept('billing', 'orders', 3, 'orders:0000...:42', 1234, 'error', FALSE);   -- one row: apply
--   ... the effect, if apply is 1 ...
--   COMMIT;
--
-- Errors: SQLSTATE PB001 gap, PB002 foreign, PB003 malformed header. What an error leaves of the
-- transaction is for the caller to roll back. Deadlocks (1213) and lock timeouts (1205): try the whole
-- transaction again.

CREATE TABLE pillarbox_consumer_positions (
    consumer     VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    source       VARCHAR(40)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    topic        VARCHAR(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    partition_id INT NOT NULL,
    position     CHAR(32)     CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    sequence     BIGINT NOT NULL,
    kafka_offset BIGINT NULL,
    updated_at   TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
    PRIMARY KEY (consumer, source, topic, partition_id)
) ENGINE = InnoDB;

DELIMITER //

CREATE PROCEDURE pillarbox_accept(
    IN p_consumer     VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_topic        VARCHAR(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_partition    INT,
    IN p_pb_pos       VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_kafka_offset BIGINT,
    IN p_on_gap       VARCHAR(5)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    IN p_strict       BOOLEAN
)
MODIFIES SQL DATA
SQL SECURITY INVOKER
BEGIN
    DECLARE v_source, v_digits VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_position, s_position VARCHAR(32) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
    DECLARE v_sequence, s_sequence, v_known BIGINT;
    DECLARE v_verdict VARCHAR(9) DEFAULT 'foreign';
    DECLARE v_message VARCHAR(500) CHARACTER SET utf8mb4;

    -- A pattern's $ may stand before a line feed at the end.
    IF p_pb_pos IS NULL OR INSTR(p_pb_pos, CHAR(10)) > 0
       OR NOT p_pb_pos REGEXP '^[a-z][a-z0-9_]{0,39}:[0-9a-f]{32}:[1-9][0-9]{0,18}$' THEN
        SIGNAL SQLSTATE 'PB003' SET MESSAGE_TEXT = 'header pb-pos is missing or malformed';
    END IF;
    IF p_on_gap IS NULL OR p_on_gap NOT IN ('error', 'warn') THEN
        SIGNAL SQLSTATE '22023' SET MESSAGE_TEXT = 'on_gap must be ''error'' or ''warn''';
    END IF;
    SET v_source = SUBSTRING_INDEX(p_pb_pos, ':', 1);
    SET v_position = SUBSTRING_INDEX(SUBSTRING_INDEX(p_pb_pos, ':', 2), ':', -1);
    SET v_digits = SUBSTRING_INDEX(p_pb_pos, ':', -1);
    IF LENGTH(v_digits) = 19 AND v_digits > '9223372036854775807' THEN
        SIGNAL SQLSTATE 'PB003' SET MESSAGE_TEXT = 'header pb-pos is missing or malformed';
    END IF;
    SET v_sequence = CAST(v_digits AS SIGNED);

    -- An empty position is none. Inserted before it is locked: locking what is not there would lock the
    -- place of others' first contacts too, and two of them would wait for each other. So does a subquery of
    -- IF, which is no SELECT to the server and locks what it reads.
    SELECT COUNT(*) INTO v_known FROM pillarbox_consumer_positions
     WHERE consumer = p_consumer AND source = v_source AND topic = p_topic AND partition_id = p_partition;
    IF v_known = 0 THEN
        INSERT INTO pillarbox_consumer_positions (consumer, source, topic, partition_id, position, sequence)
        VALUES (p_consumer, v_source, p_topic, p_partition, '', 0)
        ON DUPLICATE KEY UPDATE sequence = sequence;
    END IF;
    SELECT position, sequence INTO s_position, s_sequence FROM pillarbox_consumer_positions
     WHERE consumer = p_consumer AND source = v_source AND topic = p_topic AND partition_id = p_partition
       FOR UPDATE;

    IF s_position = '' THEN
        SET v_verdict = IF(p_strict AND v_sequence <> 1, 'gap', 'apply');
    ELSEIF v_sequence <= s_sequence AND v_position <= s_position THEN
        SET v_verdict = 'duplicate';
    ELSEIF v_sequence > s_sequence AND v_position > s_position THEN
        SET v_verdict = IF(v_sequence = s_sequence + 1, 'apply', 'gap');
    END IF;

    -- A message has at most 128 characters.
    SET v_message = LEFT(CONCAT('applied last: ', s_sequence, ', given: ', v_sequence, '; consumer ', p_consumer,
                                ', ', p_topic, '-', p_partition), 128);
    IF v_verdict = 'foreign' THEN
        SIGNAL SQLSTATE 'PB002' SET MESSAGE_TEXT = v_message;
    ELSEIF v_verdict = 'gap' AND p_on_gap = 'error' THEN
        SIGNAL SQLSTATE 'PB001' SET MESSAGE_TEXT = v_message;
    ELSEIF v_verdict <> 'duplicate' THEN
        UPDATE pillarbox_consumer_positions
           SET position = v_position, sequence = v_sequence, kafka_offset = p_kafka_offset
         WHERE consumer = p_consumer AND source = v_source AND topic = p_topic AND partition_id = p_partition;
    END IF;
    SELECT IF(v_verdict = 'duplicate', 0, 1) AS apply;
END //

DELIMITER ;
