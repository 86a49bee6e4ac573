//! Tidegate: events in at line rate, rows in Postgres by `COPY`.

pub mod db;
