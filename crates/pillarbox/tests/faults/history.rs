//! A checkpoint topic with a long history: a start must not read it.
