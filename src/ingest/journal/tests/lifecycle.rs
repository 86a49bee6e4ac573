//! Opening, rolling over, recycling, limits.

use super::*;

#[test]
fn rows_come_back_in_order_with_their_keys() {
    let disk = Disk::new();
    let (mut appender, store, _) = open_disk(&disk, &settings(16, 100)).unwrap();
    let rows: Vec<Vec<u8>> = (0..500).map(|number| tuple(number, number as usize % 700)).collect();
    for group in rows.chunks(20) {
        let parcels: Vec<Vec<u8>> = group.chunks(2).map(<[Vec<u8>]>::concat).collect();
        let keys = [(1, [7; 16])];
        let records: Vec<Records<'_>> =
            parcels.iter().map(|rows| Records { rows, events: 2, keys: &keys }).collect();
        appender.append(&records).unwrap();
        appender.sync().unwrap();
    }
    let journal = held(&store, appender.journal()).unwrap();
    assert_eq!((journal.first, journal.end, journal.current), (0, 500, true));
    assert!(journal.segments > 2, "it rolled over");
    for max_bytes in [1, 5000, 1 << 20] {
        let (read, gaps) = read_all(&store, &journal, max_bytes);
        assert_eq!(gaps, []);
        assert!(
            read.iter()
                .zip(&rows)
                .enumerate()
                .all(|(at, ((sequence, read), row))| at as u64 == *sequence && read == row)
        );
    }
    for (from, until) in [(0, 1), (3, 4), (17, 44), (199, 222), (498, 500)] {
        let (mut at, mut keys, mut read) = (from, Vec::new(), Vec::new());
        while at < until {
            let Piece::Rows(chunk) = store.read(journal.journal, at, until, 1 << 20).unwrap() else {
                panic!()
            };
            keys.extend_from_slice(&chunk.keys);
            read.extend(chunk.rows().flatten().copied());
            at = chunk.until;
        }
        assert_eq!(at, until);
        assert_eq!(read, rows[from as usize..until as usize].concat());
        let expected: Vec<_> = (from..until).filter(|at| at % 2 == 1).map(|at| (at, [7; 16])).collect();
        assert_eq!(keys, expected);
    }
}
