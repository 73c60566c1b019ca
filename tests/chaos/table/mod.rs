//! The faults. Each row says what goes wrong, what callers may see of it, and how soon all is well.

mod calls;
mod field;
mod files;
mod front;
mod token;
mod workers;

use crate::row::Row;

/// All of them.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    [workers::ROWS, calls::ROWS, token::ROWS, front::ROWS, files::ROWS, field::ROWS]
        .into_iter()
        .flatten()
}
