//! pillarbox-wire.
