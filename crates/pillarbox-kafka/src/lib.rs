//! pillarbox-kafka.
