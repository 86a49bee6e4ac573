//! One COPY of encoded tuples into a table.
//!
//! tokio-postgres' `BinaryCopyInWriter` encodes each value again and sends every 4 KiB; our tuples are encoded already,
//! so they are framed here by hand and sent in pieces of [`PIECE_BYTES`], large enough that a piece's fixed cost does
//! not count and small enough that Postgres parses one while the next is on its way.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::Transaction;

/// Signature, flags and header extension of the binary format ("COPY", Postgres' manual).
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A field count of −1 ends the data.
const TRAILER: [u8; 2] = (-1i16).to_be_bytes();
const PIECE_BYTES: usize = 128 * 1024;

/// Sends `chunks` of tuples by `copy`, a `copy … from stdin (format binary)`, within `transaction`; returns how many
/// rows Postgres took. That is fewer than were sent where a trigger returned null for one.
///
/// In the extended protocol a COPY's completion is reported *before* an implicit transaction is committed, so only the
/// answer to the caller's `commit` is proof. The statement is prepared and closed within the transaction, so that it
/// works behind a pooler that hands the server on afterwards.
///
/// # Errors
///
/// Whatever Postgres says; nothing is stored then.
pub async fn copy_rows<'a>(
    transaction: &Transaction<'_>,
    copy: &str,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Result<u64, tokio_postgres::Error> {
    let sink = transaction.copy_in::<_, Bytes>(copy).await?;
    tokio::pin!(sink);
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    piece.put_slice(HEADER);
    for chunk in chunks {
        if piece.len() + chunk.len() > PIECE_BYTES && !piece.is_empty() {
            sink.feed(piece.split().freeze()).await?;
            piece.reserve(PIECE_BYTES.max(chunk.len()));
        }
        piece.put_slice(chunk);
    }
    piece.put_slice(&TRAILER);
    sink.send(piece.freeze()).await?;
    sink.finish().await
}
