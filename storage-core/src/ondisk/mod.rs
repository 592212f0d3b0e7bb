//! The bytes that we write on a disk, and how they are recognised again. Pure.
//!
//! [`record`] is the first sector written, [`gpt`] the table that follows from it, and [`recognise`] tells a
//! disk of ours, finished or not, from everything else.

pub mod gpt;
pub(crate) mod guard;
pub(crate) mod history;
mod recognise;
pub mod record;

use gpt::{TableError, TableImage, Write};
use record::{RecordBlock, RecordState};

use crate::model::Layout;

pub use recognise::recognise;

/// The write of the record block in `state`.
#[must_use]
pub fn record_write(record: &RecordBlock, state: RecordState) -> Write {
    let record = RecordBlock {
        state,
        ..record.clone()
    };
    let mut bytes = record.encode().to_vec();
    bytes.resize(usize::try_from(record.sector).unwrap_or(bytes.len()), 0);
    Write {
        offset: record::record_offset(record.layout, record.size, record.sector),
        bytes,
        what: match state {
            RecordState::Begun => "the record block, state begun",
            RecordState::Formatting => "the record block, state formatting",
            RecordState::Ready => "the record block, state ready",
        },
    }
}

/// The writes of the commit, in order, each to be followed by a flush: the record block says *ready*, then,
/// in the GPT layout, the partition is renamed.
///
/// # Errors
/// When the record's numbers leave no room for a table.
pub fn commit_writes(record: &RecordBlock) -> Result<Vec<Write>, TableError> {
    let mut writes = vec![record_write(record, RecordState::Ready)];
    if record.layout == Layout::Gpt {
        writes.extend(TableImage::new(record)?.rename_writes());
    }
    Ok(writes)
}

#[cfg(test)]
mod tests;
