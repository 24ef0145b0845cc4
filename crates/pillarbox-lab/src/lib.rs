//! pillarbox-lab.
