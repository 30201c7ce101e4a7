/*
 * Who a device is and what it shares its fate with: on a sysfs that is made up, so that no hardware is needed, and on
 * loop devices where they can be had.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "device.h"
#include "disk_io.h"
#include "unit_test.h"

static char base[64], sysfs[96], file[96];
static unsigned file_major, file_minor; /* of the file system that `file` lies on */

static int set_up(void **state)
{
    (void)state;
    struct stat status;
    snprintf(base, sizeof base, "/tmp/tapeloop-device-XXXXXX");
    assert_non_null(mkdtemp(base));
    snprintf(sysfs, sizeof sysfs, "%s/sys", base);
    snprintf(file, sizeof file, "%s/file", base);
    int fd = open(file, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &status), 0);
    close(fd);
    file_major = major(status.st_dev);
    file_minor = minor(status.st_dev);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", base);
    return system(command);
}

/* Makes directories and, with a text, a file in the made-up sysfs. */
static void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", sysfs, name);
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    if (!text) {
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
        return;
    }
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fprintf(out, "%s\n", text);
    fclose(out);
}

static void link_to(const char *name, const char *target)
{
    char path[512], to[512];
    put(name, NULL);
    snprintf(path, sizeof path, "%s/%s", sysfs, name);
    snprintf(to, sizeof to, "%s/%s", sysfs, target);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink(to, path), 0);
}

static void number(const char *name, const char *text)
{
    char link[128];
    snprintf(link, sizeof link, "dev/block/%s", text);
    link_to(link, name);
}

/* The file's own file system lies on `name` in the made-up sysfs. */
static void mount_on(const char *name)
{
    char text[32], attribute[160];
    snprintf(text, sizeof text, "%u:%u", file_major, file_minor);
    snprintf(attribute, sizeof attribute, "%s/dev", name);
    put(attribute, text);
    number(name, text);
}

static void test_a_file_fails_with_its_disk(void **state)
{
    (void)state;
    struct device device;
    struct failure failure;
    /* No device below: the file system's number stands for it. */
    assert_int_equal(device_look_in(sysfs, file, &device, &failure), 0);
    assert_true(device.is_file);
    assert_int_equal(device.failure_domain, makedev(file_major, file_minor));
    /* A partition: its disk. */
    put("devices/sda/dev", "8:0");
    number("devices/sda", "8:0");
    put("devices/sda/sda3/partition", "3");
    mount_on("devices/sda/sda3");
    assert_int_equal(device_look_in(sysfs, file, &device, &failure), 0);
    assert_int_equal(device.failure_domain, makedev(8, 0));
    assert_string_equal(device.identity, "");
    assert_string_equal(device.enclosure, "");
    /* The same disk in an enclosure: two disks of it are one domain, of another another. */
    put("class/enclosure/0:0:8:0/id", "0x500605b000000001");
    put("class/enclosure/0:0:8:0/Slot 07/locate", "0");
    link_to("devices/sda/device/enclosure_device:Slot 07", "class/enclosure/0:0:8:0/Slot 07");
    assert_int_equal(device_look_in(sysfs, file, &device, &failure), 0);
    assert_string_equal(device.enclosure, "0x500605b000000001");
    assert_string_equal(device.enclosure_slot, "Slot 07");
    assert_true(device.failure_domain >> 63);
    uint64_t domain = device.failure_domain;
    put("class/enclosure/0:0:8:0/id", "0x500605b000000002");
    assert_int_equal(device_look_in(sysfs, file, &device, &failure), 0);
    assert_true(device.failure_domain >> 63);
    assert_int_not_equal(device.failure_domain, domain);
}

static void test_mapped_devices(void **state)
{
    (void)state;
    struct device device;
    put("devices/sda/dev", "8:0");
    put("devices/sdb/dev", "8:16");
    number("devices/sda", "8:0");
    number("devices/sdb", "8:16");
    mount_on("devices/dm-0");
    link_to("devices/dm-0/slaves/sdb", "devices/sdb");
    assert_int_equal(device_look_in(sysfs, file, &device, NULL), 0);
    assert_int_equal(device.failure_domain, makedev(8, 16));
    /* Made of two: neither of them alone. */
    link_to("devices/dm-0/slaves/sda", "devices/sda");
    assert_int_equal(device_look_in(sysfs, file, &device, NULL), 0);
    assert_int_equal(device.failure_domain, makedev(file_major, file_minor));
}

/* A device that is below itself, and one that is what sysfs should not say, end somewhere. */
static void test_odd_sysfs(void **state)
{
    (void)state;
    struct device device;
    mount_on("devices/dm-0");
    link_to("devices/dm-0/slaves/dm-0", "devices/dm-0");
    assert_int_equal(device_look_in(sysfs, file, &device, NULL), 0);
    assert_int_equal(device.failure_domain, makedev(file_major, file_minor));
    put("devices/dm-0/dev", "no number");
    assert_int_equal(device_look_in(sysfs, file, &device, NULL), 0);
}

static void test_what_is_no_disk(void **state)
{
    (void)state;
    struct device device;
    struct failure failure;
    assert_int_equal(device_look("/dev/null", &device, &failure), ERR_INVALID);
    assert_int_equal(device_look("/tmp", &device, &failure), ERR_INVALID);
    assert_int_equal(device_look("/tmp/there/is/no/such/path", &device, &failure), ERR_NOT_FOUND);
    assert_int_equal(device_locate(file, true, &failure), ERR_UNSUPPORTED);
    assert_non_null(strstr(failure.text, file));
    device = (struct device){.logical_bytes = 8192};
    assert_int_equal(device_check_limits(&device, "/dev/big", &failure), ERR_UNSUPPORTED);
    assert_non_null(strstr(failure.text, "8192"));
    device.logical_bytes = 4096;
    assert_int_equal(device_check_limits(&device, "/dev/usual", &failure), 0);
}

/* ---- loop devices ------------------------------------------------------------------------------- */

static char loop_path[32];
static int loop_fd = -1;

/* A loop device with blocks of that size over `file`, or skips. */
static void loop_over_file(uint32_t block_bytes)
{
    if (geteuid() != 0)
        skip();
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        skip();
    int backing = open(file, O_RDWR | O_CLOEXEC);
    assert_int_equal(ftruncate(backing, 0), 0);
    assert_int_equal(posix_fallocate(backing, 0, 64 << 20), 0);
    struct loop_config config = {.fd = (uint32_t)backing, .block_size = block_bytes};
    for (int attempt = 0; attempt < 100 && loop_fd < 0; attempt++) { /* others take loop devices, too */
        int free_number = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(loop_path, sizeof loop_path, "/dev/loop%d", free_number);
        loop_fd = free_number < 0 ? -1 : open(loop_path, O_RDWR | O_CLOEXEC);
        if (loop_fd >= 0 && ioctl(loop_fd, LOOP_CONFIGURE, &config) != 0) {
            close(loop_fd);
            loop_fd = -1;
        }
    }
    close(control);
    close(backing);
    if (loop_fd < 0)
        skip();
}

static int loop_down(void **state)
{
    if (loop_fd >= 0) {
        ioctl(loop_fd, LOOP_CLR_FD);
        close(loop_fd);
        loop_fd = -1;
    }
    return tear_down(state);
}

static bool is_ours(const char *path, void *context)
{
    ++*(int *)context;
    return strcmp(path, loop_path) == 0;
}

static void test_loop_device(void **state)
{
    (void)state;
    struct device device, below;
    struct failure failure;
    loop_over_file(4096);
    assert_int_equal(device_look(loop_path, &device, &failure), 0);
    assert_false(device.is_file);
    assert_int_equal(device.logical_bytes, 4096);
    assert_string_equal(device.identity, ""); /* nothing that its maker gave it */
    /* It fails with the file below it. */
    assert_int_equal(device_look(file, &below, &failure), 0);
    assert_int_equal(device.failure_domain, below.failure_domain);

    char found[DEVICE_PATH_SIZE];
    int asked = 0;
    assert_int_equal(device_find("", is_ours, &asked, found), 0);
    assert_string_equal(found, loop_path);
    assert_int_equal(device_find("wwn:nobody has this", is_ours, &asked, found), ERR_NOT_FOUND);
    assert_int_equal(device_locate(loop_path, true, &failure), ERR_UNSUPPORTED);
}

/* What a disk opens with, and that adding one gives up what was on it. */
static void test_disk_on_a_loop_device(void **state)
{
    (void)state;
    struct failure failure;
    struct disk *disk;
    struct device device;
    loop_over_file(512);
    static uint8_t text[4096] = "somebody's";
    for (int page = 0; page < 1000; page++)
        assert_int_equal(pwrite(loop_fd, text, sizeof text, 8 << 20 | page * 4096), sizeof text);
    assert_int_equal(fsync(loop_fd), 0);
    assert_int_equal(device_look(loop_path, &device, &failure), 0);
    assert_int_equal(disk_uring_create(loop_path, 0, false, &disk, &failure), 0);
    assert_int_equal(disk->failure_domain, device.failure_domain);
    assert_true(disk->alignment <= 4096 && disk->alignment >= 512);
    assert_int_equal(disk->bytes, 64 << 20);
    if (device.discards) {
        static uint8_t page[4096] __attribute__((aligned(4096)));
        memset(page, 1, sizeof page);
        assert_int_equal(disk_read(disk, DISK_SLOT_META, 8 << 20, page, sizeof page), 0);
        for (size_t i = 0; i < sizeof page; i++)
            assert_int_equal(page[i], 0);
    }
    disk_close(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_file_fails_with_its_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mapped_devices, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_odd_sysfs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_no_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_loop_device, set_up, loop_down),
        cmocka_unit_test_setup_teardown(test_disk_on_a_loop_device, set_up, loop_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
