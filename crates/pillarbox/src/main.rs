//! pillarbox.

fn main() {}
