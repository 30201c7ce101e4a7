/*
 * faulty_vfs.h - a SQLite VFS that fails on purpose, for the tests of the databases.
 *
 * faulty_vfs_install() makes it the default VFS of the process, on top of the real one; the page
 * checksums of storage/database_pages.c then stand on it. Nothing fails until faulty_vfs_arm().
 *
 * Threads: any.
 */
#ifndef TESTS_FAULTY_VFS_H
#define TESTS_FAULTY_VFS_H

#include <stdbool.h>
#include <stdint.h>

enum faulty_operation {
    FAULTY_READ = 1,
    FAULTY_WRITE = 2,
    FAULTY_SYNC = 4,
    FAULTY_TRUNCATE = 8,
    FAULTY_OPEN = 16,
};

void faulty_vfs_install(void);

/* The (after + 1)-th operation from now that is one of `operations` fails with SQLite's `result`;
 * all later ones too unless `once`. */
void faulty_vfs_arm(unsigned operations, uint32_t after, int result, bool once);

/* Stops failing. Returns how many operations have failed since faulty_vfs_arm(). */
uint32_t faulty_vfs_disarm(void);

/* Writes to any file since it was last synced, or opened; and syncs so far. */
uint32_t faulty_vfs_unsynced(void);
uint32_t faulty_vfs_syncs(void);

#endif
