-- catalog.db: time -> segments -> places. Derived: the disks can rebuild all of it (promise P5).
--
-- Identities are blobs of 16 bytes, times nanoseconds since the epoch. Unsigned 64-bit numbers are stored as the signed
-- number with the same bits: above 2^63 they look negative here. "position < 0" in an index puts those last, where
-- they belong. The database has 8 reserved bytes in each page for a checksum (storage/database.h): reading it with
-- other programs is fine, writing to it makes it damaged.

PRAGMA application_id = 0x746c6361;
PRAGMA user_version = 2;

-- One row. complete = 0: something that was to be written is missing; the disks must be read.
CREATE TABLE catalog (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    complete INTEGER NOT NULL
) STRICT;

INSERT INTO catalog (one, complete) VALUES (1, 0);

-- The second half sums up the ring's segments; the triggers below keep it.
CREATE TABLE ring (
    id INTEGER PRIMARY KEY,
    ring BLOB NOT NULL UNIQUE CHECK (length(ring) = 16),
    name TEXT NOT NULL DEFAULT '',
    copies INTEGER NOT NULL DEFAULT 0,
    slot_bytes INTEGER NOT NULL DEFAULT 0,
    segments INTEGER NOT NULL DEFAULT 0,
    packets INTEGER NOT NULL DEFAULT 0,
    captured_bytes INTEGER NOT NULL DEFAULT 0,
    missing INTEGER NOT NULL DEFAULT 0,
    purged INTEGER NOT NULL DEFAULT 0,
    damaged_segments INTEGER NOT NULL DEFAULT 0
) STRICT;

-- ring is null while all that is known of a disk is that a segment lies there.
CREATE TABLE disk (
    id INTEGER PRIMARY KEY,
    disk BLOB NOT NULL UNIQUE CHECK (length(disk) = 16),
    ring INTEGER REFERENCES ring (id),
    path TEXT NOT NULL DEFAULT '',
    bytes INTEGER NOT NULL DEFAULT 0,
    slots INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL DEFAULT 0
) STRICT;

-- state: 1 open, 2 sealed, 3 damaged. first_ns > last_ns where there is no packet.
--
-- span makes "which segments overlap this range" fast however wild the times are (promise P8): it is the number of
-- bits of last_ns - first_ns, so segments of one span are at most 2^span - 1 long, and those of them that overlap
-- [from, to] begin between from - (2^span - 1) and to: one stretch of segment_time. At most 65 such looks
-- answer any range; a segment that lasts for centuries costs only the look at its own span.
-- 65: to be named whatever the range is (open, or with packets of unknown time). 66: never (no packet).
CREATE TABLE segment (
    id INTEGER PRIMARY KEY,
    segment BLOB NOT NULL UNIQUE CHECK (length(segment) = 16),
    ring INTEGER NOT NULL REFERENCES ring (id),
    position INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    data_revision INTEGER NOT NULL,
    run BLOB NOT NULL CHECK (length(run) = 16),
    stream INTEGER NOT NULL,
    state INTEGER NOT NULL,
    first_packet INTEGER NOT NULL,
    packets INTEGER NOT NULL,
    captured_bytes INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    purged INTEGER NOT NULL,
    opened_ns INTEGER NOT NULL,
    sealed_ns INTEGER NOT NULL,
    head_ns INTEGER NOT NULL,
    first_ns INTEGER NOT NULL,
    last_ns INTEGER NOT NULL,
    span INTEGER NOT NULL,
    data_end INTEGER NOT NULL,
    index_offset INTEGER NOT NULL,
    index_bytes INTEGER NOT NULL
) STRICT;

CREATE INDEX segment_time ON segment (ring, span, first_ns, last_ns);
CREATE INDEX segment_order ON segment (ring, run, stream, position < 0, position);
CREATE INDEX segment_position ON segment (ring, position < 0, position);
CREATE INDEX segment_first ON segment (ring, first_ns) WHERE first_ns <= last_ns;
CREATE INDEX segment_last ON segment (ring, last_ns) WHERE first_ns <= last_ns;

-- What lies in a slot. copy counts a segment's places from 0, gaps are allowed.
CREATE TABLE place (
    disk INTEGER NOT NULL REFERENCES disk (id),
    slot INTEGER NOT NULL,
    segment INTEGER NOT NULL REFERENCES segment (id),
    copy INTEGER NOT NULL,
    PRIMARY KEY (disk, slot)
) STRICT, WITHOUT ROWID;

CREATE INDEX place_segment ON place (segment, copy);

CREATE TABLE interface (
    id INTEGER PRIMARY KEY,
    ring INTEGER NOT NULL REFERENCES ring (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    link_type INTEGER NOT NULL,
    snapshot_length INTEGER NOT NULL,
    hardware BLOB NOT NULL CHECK (length(hardware) = 6),
    first_seen_ns INTEGER NOT NULL,
    last_seen_ns INTEGER NOT NULL,
    UNIQUE (ring, name, description, link_type, snapshot_length, hardware)
) STRICT;

-- u64_add and u64_subtract are the program's own: modulo 2^64, where SQL's + would turn into floating point.
CREATE TRIGGER segment_added AFTER INSERT ON segment BEGIN
    UPDATE ring SET
        segments = segments + 1,
        packets = u64_add(packets, NEW.packets),
        captured_bytes = u64_add(captured_bytes, NEW.captured_bytes),
        missing = u64_add(missing, NEW.missing),
        purged = u64_add(purged, NEW.purged),
        damaged_segments = damaged_segments + (NEW.state = 3)
    WHERE id = NEW.ring;
END;

CREATE TRIGGER segment_removed AFTER DELETE ON segment BEGIN
    UPDATE ring SET
        segments = segments - 1,
        packets = u64_subtract(packets, OLD.packets),
        captured_bytes = u64_subtract(captured_bytes, OLD.captured_bytes),
        missing = u64_subtract(missing, OLD.missing),
        purged = u64_subtract(purged, OLD.purged),
        damaged_segments = damaged_segments - (OLD.state = 3)
    WHERE id = OLD.ring;
END;

CREATE TRIGGER segment_changed AFTER UPDATE ON segment BEGIN
    UPDATE ring SET
        segments = segments - 1,
        packets = u64_subtract(packets, OLD.packets),
        captured_bytes = u64_subtract(captured_bytes, OLD.captured_bytes),
        missing = u64_subtract(missing, OLD.missing),
        purged = u64_subtract(purged, OLD.purged),
        damaged_segments = damaged_segments - (OLD.state = 3)
    WHERE id = OLD.ring;
    UPDATE ring SET
        segments = segments + 1,
        packets = u64_add(packets, NEW.packets),
        captured_bytes = u64_add(captured_bytes, NEW.captured_bytes),
        missing = u64_add(missing, NEW.missing),
        purged = u64_add(purged, NEW.purged),
        damaged_segments = damaged_segments + (NEW.state = 3)
    WHERE id = NEW.ring;
END;
