//! pillarbox-relay.
