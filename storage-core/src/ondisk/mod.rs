//! The bytes that we write on a disk, and how they are recognised again. Pure.

pub mod gpt;
pub mod record;
