//! Runs passes and the command.
