-- web.db: who may use tapeloop-web. Conventions as in schema/state.sql; times are seconds since the epoch.
-- Nothing here can be used by who reads it: passwords are scrypt hashes, sessions and tokens SHA-256 of
-- 256 random bits.

PRAGMA application_id = 0x746c7762;
PRAGMA user_version = 1;

-- must_change: the password was given by somebody else, and is good for setting another one only.
CREATE TABLE user (
    name TEXT PRIMARY KEY NOT NULL,
    role INTEGER NOT NULL,
    password TEXT NOT NULL,
    must_change INTEGER NOT NULL,
    created_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    secret BLOB PRIMARY KEY NOT NULL CHECK (length(secret) = 32),
    user TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    used_s INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: the number of a deleted token is not given again.
CREATE TABLE token (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    secret BLOB NOT NULL UNIQUE CHECK (length(secret) = 32),
    user TEXT NOT NULL,
    name TEXT NOT NULL,
    rights INTEGER NOT NULL,
    created_s INTEGER NOT NULL,
    expires_s INTEGER NOT NULL
) STRICT;
