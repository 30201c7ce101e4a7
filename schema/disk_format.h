/*
 * disk_format.h - the structs that lie on a disk. FORMAT.md explains them; this file must agree with it.
 */
#ifndef SCHEMA_DISK_FORMAT_H
#define SCHEMA_DISK_FORMAT_H

#include "bytes.h"
#include "identity.h"

/* ---- limits, one derived from the other ------------------------------------------------------ */

#define FORMAT_VERSION 1u

#define PAGE_BYTES 4096u                       /* every write is a multiple of this, at a multiple of this */
#define BLOCK_BYTES (16u * 1024)               /* unit of checksum, tag and verified reading */
#define FRAME_BYTES_USUAL (256u * 1024)        /* a frame is longer only for one oversized packet */
#define FRAME_BLOCKS_USUAL (FRAME_BYTES_USUAL / BLOCK_BYTES)
/* FLOWS frames: all but the last have this length and hold this much; the header may be shorter in the last. */
#define FLOWS_FRAME_BYTES (FRAME_BYTES_USUAL - PAGE_BYTES)
#define FLOWS_HEADER_BYTES 768u
#define FLOWS_PIECE_BYTES (FLOWS_FRAME_BYTES - FLOWS_HEADER_BYTES)
#define SLOT_BYTES_MIN (1024u * 1024)
#define SLOT_BYTES_MAX (64u * 1024 * 1024)
#define FRAME_BYTES_MAX (24u * 1024 * 1024)    /* a packet of 16 MiB and its header */
#define FRAME_ENTRIES_MAX 255u                 /* the 8-bit entry of a packet record; 255 is FRAME_ENTRY_PURGED */
#define RING_NAME_MAX 63u
#define RING_DISKS_MAX 128u
#define COPIES_MAX 4u

#define SUPERBLOCK_BYTES (64u * 1024)
#define SUPERBLOCK_MEMBERS RING_DISKS_MAX
#define SUPERBLOCK_TOMBSTONES 160u
#define META_BYTES (2u * 1024 * 1024)          /* at each end of a disk: superblock pair, key area */
#define SUPERBLOCK_SECOND_OFFSET (512u * 1024) /* of the pair's second place in its MiB */
#define KEY_AREA_OFFSET (1024u * 1024)         /* from the start of META at either end */
#define KEY_AREA_BYTES (1024u * 1024)

/* Incompatible features: a reader that meets a bit it does not know refuses the disk. */
#define FEATURE_INCOMPAT_KNOWN 0u
/* Compatible features: an unknown bit may be ignored by readers; a writer refuses the disk. */
#define FEATURE_COMPAT_KNOWN 0u

/* ---- superblock ------------------------------------------------------------------------------- */

#define SUPERBLOCK_MAGIC "TAPELOOP"

enum disk_state {
    DISK_FRESH = 0,
    DISK_ACTIVE = 1,
    DISK_SUSPECT = 2,
    DISK_FAILED = 3,
    DISK_MISSING = 4,
    DISK_REMOVED = 5,
    DISK_FOREIGN = 6,
};

struct superblock_member { /* 128 bytes */
    struct identity disk;
    le64 bytes;
    le64 joined_ns;  /* when the disk joined the ring */
    uint8_t state;   /* enum disk_state as the ring last saw it */
    uint8_t reserved[7];
    char name[88];   /* path or stable identity, for a person; zero-padded */
};

struct superblock_tombstone { /* 128 bytes; packets were purged: a disk that was away then, and so has not this purge here, holds them still */
    struct identity purge;
    struct identity segment; /* zero: any */
    le64 position;           /* the purge saw all positions up to this one */
    le32 revision;
    uint8_t reserved[84];
};

struct superblock {
    uint8_t magic[8];
    le32 crc;                  /* CRC32C of all SUPERBLOCK_BYTES with this field zero */
    le32 version;
    le32 incompat;
    le32 compat;
    le64 generation;           /* the highest valid one counts; even: first place of the pair, odd: second */
    struct identity ring;
    struct identity disk;
    le64 created_ns;
    le64 updated_ns;
    le64 disk_bytes;           /* the part of the disk that is used, a multiple of PAGE_BYTES */
    le64 slots_offset;
    le64 slot_bytes;
    le64 slot_count;
    uint8_t copies;            /* write redundancy of the ring: 1 to COPIES_MAX */
    uint8_t cipher;            /* 0 = none */
    le16 members;
    le16 tombstones;
    uint8_t reserved1[2];
    le32 key_epoch;
    char ring_name[64];        /* zero-terminated */
    char recorder[64];         /* host name of the recorder, for a person */
    le64 horizon;              /* positions below this one have expired, at the time of writing; a hint */
    uint8_t reserved2[4096 - 260];
    struct superblock_member member[SUPERBLOCK_MEMBERS];
    struct superblock_tombstone tombstone[SUPERBLOCK_TOMBSTONES];
    uint8_t reserved3[SUPERBLOCK_BYTES - 4096 - 128 * (SUPERBLOCK_MEMBERS + SUPERBLOCK_TOMBSTONES)];
};

_Static_assert(sizeof(struct superblock_member) == 128, "on-disk layout");
_Static_assert(sizeof(struct superblock_tombstone) == 128, "on-disk layout");
_Static_assert(sizeof(struct superblock) == SUPERBLOCK_BYTES, "on-disk layout");

/* ---- frames ----------------------------------------------------------------------------------- */

#define FRAME_MAGIC "tlframe\n"

enum frame_kind {
    FRAME_OPEN = 1,  /* number 0, at the slot's start, one page: this slot is this segment's */
    FRAME_DATA = 2,  /* packets */
    FRAME_INDEX = 3, /* after the last data frame: the frame directory and the accounts */
    FRAME_SEAL = 4,  /* the slot's last page */
    FRAME_FLOWS = 5, /* a piece of the key index, between INDEX and SEAL */
};

#define FRAME_ACCOUNT_LINES 10u

struct frame_account { /* 176 bytes; account.def gives the order of the lines */
    le64 packets[FRAME_ACCOUNT_LINES];
    le64 bytes[FRAME_ACCOUNT_LINES];
    le64 stored_bytes;
    le64 cut_packets;
};

struct frame_header { /* 448 bytes, then block table, entry table, interface table, body */
    uint8_t magic[8];
    le32 header_crc;     /* CRC32C of header_bytes bytes with this field zero */
    le32 header_bytes;   /* this struct and the three tables, a multiple of 8 */
    le32 frame_bytes;    /* multiple of PAGE_BYTES */
    le32 offset;         /* of this frame in its slot */
    uint8_t kind;        /* enum frame_kind */
    uint8_t cipher;      /* 0 = none */
    le16 flags;          /* 0 */
    le32 number;         /* of this frame in its segment, from 0 */
    struct identity ring;
    struct identity segment;
    struct identity run; /* of the recorder */
    le64 position;       /* the ring's write sequence */
    le32 revision;       /* of the segment, from 1 */
    le32 stream;         /* of the run, from 0 */
    le64 first_packet;   /* number in the stream of the frame's first packet (or of the next, if it has none) */
    le32 packets;
    le32 body_bytes;     /* records, without padding, before compression */
    le32 stored_bytes;   /* the same as it lies here; equal until there is compression */
    le32 key_epoch;
    le64 frontier;       /* packets of the stream below this number were durable when this was written */
    le64 head_ns;        /* time of the first packet */
    le64 first_ns;       /* smallest time */
    le64 last_ns;        /* largest time */
    le16 blocks;         /* entries in the block table: room reserved, at least as many as the frame has */
    le16 entries;
    le16 interfaces;
    uint8_t reserved1[2];
    le32 interface_bytes; /* length of the interface table */
    le32 data_revision;   /* SEAL, INDEX: revision that the data frames carry */
    uint8_t salt[32];     /* OPEN: of this revision's key; SEAL, INDEX: of their own revision's key; else zero */
    uint8_t tag[16];      /* of the header itself, where encrypted */
    struct frame_account account; /* of the stream, cumulative over the run */
    uint8_t reserved2[448 - 392];
};

_Static_assert(sizeof(struct frame_account) == 176, "on-disk layout");
_Static_assert(sizeof(struct frame_header) == 448, "on-disk layout");

struct frame_block { /* one for each BLOCK_BYTES of the frame; the first block begins after the header */
    le32 crc;
    uint8_t tag[16];
};

struct frame_entry { /* what the 8-bit entry of a packet record stands for */
    le16 interface; /* index into this frame's interface table */
    uint8_t direction;
    uint8_t action; /* 0 = kept whole, 1 = cut */
    le32 rule;      /* id of the rule that it was kept by, 0 = no rule */
};

/* The entry of a record whose packet was purged: time, lengths and bytes say nothing of it, only its number is left. No frame's table is so long. */
#define FRAME_ENTRY_PURGED 255u

/* So many entries of a segment may name a rule; packets of more rules are of FRAME_RULE_UNSAID, so that
 * a long list of rules leaves room for interfaces. */
#define FRAME_RULE_ENTRIES_MAX 64u
#define FRAME_RULE_UNSAID UINT32_MAX

struct frame_interface { /* followed by name and description, then zeros up to a multiple of 8 */
    le32 snapshot_length;
    le16 link_type;
    uint8_t hardware[6];
    uint8_t name_bytes;
    uint8_t description_bytes;
    uint8_t reserved[2];
};

struct packet_record { /* followed by captured_bytes bytes; the next record follows without padding */
    le64 time_ns;
    le32 original_bytes;
    le32 captured_and_entry; /* low 24 bits: captured length; high 8 bits: entry */
};

_Static_assert(sizeof(struct frame_block) == 20, "on-disk layout");
_Static_assert(sizeof(struct frame_entry) == 8, "on-disk layout");
_Static_assert(sizeof(struct frame_interface) == 16, "on-disk layout");
_Static_assert(sizeof(struct packet_record) == 16, "on-disk layout");

/* ---- bodies of the other kinds ---------------------------------------------------------------- */

struct open_place { /* where a copy was opened; healing may have moved it since */
    struct identity disk;
    le32 slot;
};

struct open_body { /* FRAME_OPEN */
    le64 opened_ns;     /* clock of the recorder */
    le64 slot_bytes;
    uint8_t copies;     /* that the ring could give when it was opened: entries of `place` */
    uint8_t healing;    /* 1: filled from another copy, and worth nothing without its seal */
    uint8_t reserved[6];
    char host[64];      /* name of the recorder, zero-padded */
    char version[16];
    struct open_place place[COPIES_MAX];
};

struct index_frame_entry { /* FRAME_INDEX, section 1: one for each data frame, in order of offset */
    le32 offset;
    le32 frame_bytes;
    le32 number;
    le32 packets;
    le64 first_packet;
    le64 head_ns;
    le64 first_ns;
    le64 last_ns;
};

struct index_account { /* FRAME_INDEX, section 2: one for each interface of the index frame's table */
    struct frame_account account; /* of this interface in this stream, cumulative over the run */
};

struct index_body { /* then the sections, back to back */
    le32 part;          /* number of this index frame, from 0 */
    le32 parts;
    le32 frames;        /* entries of section 1 in this part */
    le32 accounts;      /* entries of section 2: in part 0 all of them, else 0 */
};

enum seal_reason {
    SEAL_FULL = 1,
    SEAL_CLOSED = 2,    /* the capture ended */
    SEAL_RECOVERED = 3, /* after a crash */
    SEAL_FAILED = 4,    /* a write failed in mid-segment */
    SEAL_TABLE = 5,     /* the entry table was full */
};

struct seal_body { /* FRAME_SEAL */
    le64 opened_ns;
    le64 sealed_ns;
    le64 packets;        /* in the segment */
    le64 captured_bytes; /* in the segment, without record headers */
    le64 first_packet;   /* number in the stream of the segment's first packet */
    le64 head_ns;        /* time of its first packet */
    le64 first_ns;       /* smallest and largest time of all its packets */
    le64 last_ns;
    le32 data_frames;
    le32 data_end;       /* offset in the slot where the last data frame ends */
    le32 index_offset;   /* of the first index frame */
    le32 index_bytes;    /* of all of them, and of the FLOWS frames behind them: up to the seal */
    le32 next_number;    /* frame number of the seal itself */
    uint8_t reason;      /* enum seal_reason */
    uint8_t reserved[3];
    le64 missing;        /* packets that are known to have been here and are gone (damage found at recovery) */
    le64 purged;         /* of `packets`: that were erased (FRAME_ENTRY_PURGED) */
};

#define SEAL_BODY_BYTES_MIN 96u /* of seals from before anything was purged: without `purged` */

_Static_assert(sizeof(struct open_body) == 184, "on-disk layout");
_Static_assert(sizeof(struct index_frame_entry) == 48, "on-disk layout");
_Static_assert(sizeof(struct index_body) == 16, "on-disk layout");
_Static_assert(sizeof(struct seal_body) == 104, "on-disk layout");

#endif
