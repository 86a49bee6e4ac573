//! One COPY of encoded tuples into a table.
//!
//! tokio-postgres' `BinaryCopyInWriter` encodes each value again and sends every 4 KiB; our tuples are encoded already,
//! so they are framed here by hand and sent in pieces of [`PIECE_BYTES`], large enough that a piece's fixed cost does
//! not count and small enough that Postgres parses one while the next is on its way.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::Statement;

use crate::db::Connection;

/// Signature, flags and header extension of the binary format ("COPY", Postgres' manual).
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A field count of −1 ends the data.
const TRAILER: [u8; 2] = (-1i16).to_be_bytes();
const PIECE_BYTES: usize = 128 * 1024;

/// A COPY that failed.
#[derive(Debug)]
pub struct CopyError {
    /// What Postgres or the connection says.
    pub error: tokio_postgres::Error,
    /// It failed while it was being committed, so its rows may be stored all the same.
    pub in_doubt: bool,
}

impl From<tokio_postgres::Error> for CopyError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self { error, in_doubt: false }
    }
}

/// Stores `stretches` of tuples by `statement`, a `copy … from stdin (format binary)`: all of them or none.
///
/// In a transaction of its own, though a COPY is a single statement: in the extended protocol its completion is reported
/// *before* the implicit transaction is committed, so a backend that ends in between, or a constraint that is checked at
/// the end, would lose rows that were called stored. Only the answer to `commit` is proof.
///
/// # Errors
///
/// [`CopyError`]; nothing was stored then, unless it is in doubt.
pub async fn copy_rows<'a>(
    connection: &mut Connection,
    statement: &Statement,
    stretches: impl Iterator<Item = &'a [u8]>,
) -> Result<(), CopyError> {
    let transaction = connection.transaction().await?;
    let sink = transaction.copy_in::<_, Bytes>(statement).await?;
    tokio::pin!(sink);
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    piece.put_slice(HEADER);
    for stretch in stretches {
        if piece.len() + stretch.len() > PIECE_BYTES && !piece.is_empty() {
            sink.feed(piece.split().freeze()).await?;
            piece.reserve(PIECE_BYTES.max(stretch.len()));
        }
        piece.put_slice(stretch);
    }
    piece.put_slice(&TRAILER);
    sink.send(piece.freeze()).await?;
    sink.finish().await?;
    // Even an error that Postgres sent, such as 57P01, may come after the commit.
    transaction.commit().await.map_err(|error| CopyError { error, in_doubt: true })
}
