-- state.db: what no disk can rebuild. Conventions as in catalog.sql: identities are blobs of 16 bytes, unsigned 64-bit
-- numbers the signed ones with the same bits, 8 reserved bytes in each page hold a checksum.
--
-- A change here needs a new user_version and a step from the last one in storage/state.c.

PRAGMA application_id = 0x746c7374;
PRAGMA user_version = 2;

-- disks_numbered: the highest number that a disk of the ring was ever given; numbers are not reused.
CREATE TABLE ring (
    ring BLOB PRIMARY KEY NOT NULL CHECK (length(ring) = 16),
    name TEXT NOT NULL UNIQUE,
    slot_bytes INTEGER NOT NULL,
    copies INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    disks_numbered INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE disk (
    disk BLOB PRIMARY KEY NOT NULL CHECK (length(disk) = 16),
    ring BLOB NOT NULL REFERENCES ring (ring),
    number INTEGER NOT NULL,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    state INTEGER NOT NULL,
    UNIQUE (ring, number)
) STRICT, WITHOUT ROWID;

-- ring is sixteen zeros for the settings of the recorder.
CREATE TABLE setting (
    ring BLOB NOT NULL CHECK (length(ring) = 16),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (ring, name)
) STRICT, WITHOUT ROWID;

-- What a row of history is about.
CREATE TABLE history_subject (
    id INTEGER PRIMARY KEY,
    ring BLOB NOT NULL CHECK (length(ring) = 16),
    interface TEXT NOT NULL,
    UNIQUE (ring, interface)
) STRICT;

-- seconds: 1, or 60 where older rows were summed up; second is the first of them. Lines as in account.def.
CREATE TABLE history (
    seconds INTEGER NOT NULL CHECK (seconds IN (1, 60)),
    second INTEGER NOT NULL,
    subject INTEGER NOT NULL REFERENCES history_subject (id),
    seen_packets INTEGER NOT NULL,
    seen_bytes INTEGER NOT NULL,
    stored_packets INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    in_flight_packets INTEGER NOT NULL,
    in_flight_bytes INTEGER NOT NULL,
    discarded_packets INTEGER NOT NULL,
    discarded_bytes INTEGER NOT NULL,
    duplicates_packets INTEGER NOT NULL,
    duplicates_bytes INTEGER NOT NULL,
    sampled_out_packets INTEGER NOT NULL,
    sampled_out_bytes INTEGER NOT NULL,
    dropped_queue_packets INTEGER NOT NULL,
    dropped_queue_bytes INTEGER NOT NULL,
    dropped_kernel_packets INTEGER NOT NULL,
    dropped_kernel_bytes INTEGER NOT NULL,
    lost_disk_packets INTEGER NOT NULL,
    lost_disk_bytes INTEGER NOT NULL,
    refused_packets INTEGER NOT NULL,
    refused_bytes INTEGER NOT NULL,
    captured_bytes INTEGER NOT NULL,
    cut_packets INTEGER NOT NULL,
    PRIMARY KEY (seconds, second, subject)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: the number of a deleted event is not given again.
CREATE TABLE event (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns INTEGER NOT NULL,
    severity TEXT NOT NULL,
    kind TEXT NOT NULL,
    ring TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;

-- The audit log: who did what. Rows are only ever added. hash is SHA-256 of: the row before's hash (32 zeros before the first),
-- number and time_ns as 8 bytes each, little-endian, then actor, action, ring, detail, outcome, each as 4 bytes of length,
-- little-endian, and its bytes. So no row can be changed, put in or taken out without all later hashes changing.
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    ring TEXT NOT NULL,
    detail TEXT NOT NULL,
    outcome TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
