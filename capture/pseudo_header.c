/*
 * pseudo_header.c - headers before a packet that the capturing machine wrote in its own byte order.
 *
 * Layouts: https://www.tcpdump.org/linktypes.html for each LINKTYPE_ below. Which fields are
 * turned, and where turning stops in a packet that was cut, is as in libpcap 1.10: a test compares.
 */
#include "capture_file.h"

enum {
    LINK_LINUX_SLL = 113,
    LINK_PFLOG = 117,
    LINK_USB_LINUX = 189,
    LINK_USB_LINUX_MMAPPED = 220,
    LINK_NFLOG = 239,
    LINK_LINUX_SLL2 = 276,
};

static void turn(uint8_t *field, size_t bytes)
{
    for (size_t i = 0; i < bytes / 2; i++) {
        uint8_t byte = field[i];
        field[i] = field[bytes - 1 - i];
        field[bytes - 1 - i] = byte;
    }
}

/* OpenBSD's packet filter log: the users and processes that it names, as far as the header says to
 * go. */
static void turn_pflog(uint8_t *bytes, uint32_t length)
{
    enum { USER = 44, END = 60 };
    for (uint32_t at = USER; at < END; at += 4) {
        if (length < at + 4 || bytes[0] < at + 4)
            return;
        turn(bytes + at, 4);
    }
}

/* Cooked captures of a CAN bus: the CAN identifier behind the cooked header. */
static void turn_cooked(uint8_t *bytes, uint32_t length, uint32_t header_bytes,
                        uint32_t protocol_at)
{
    enum { PROTOCOL_CAN = 0x000c, PROTOCOL_CANFD = 0x000d, CAN_ID_BYTES = 4 };
    if (length < header_bytes + CAN_ID_BYTES)
        return;
    unsigned protocol = (unsigned)(bytes[protocol_at] << 8 | bytes[protocol_at + 1]);
    if (protocol == PROTOCOL_CAN || protocol == PROTOCOL_CANFD)
        turn(bytes + header_bytes, CAN_ID_BYTES);
}

enum {
    USB_EVENT_TYPE = 8,
    USB_TRANSFER_TYPE = 9,
    USB_ENDPOINT = 10,
    USB_DATA_FLAG = 15,
    USB_URB_LENGTH = 32,
    USB_HEADER_BYTES = 48,
    USB_DESCRIPTORS = 60,
    USB_MMAPPED_HEADER_BYTES = 64,
    USB_DESCRIPTOR_BYTES = 16,
    USB_ISOCHRONOUS = 0,
};

static void turn_usb(uint8_t *bytes, uint32_t length, bool mmapped)
{
    static const struct {
        uint8_t at;
        uint8_t bytes;
        bool isochronous_only;
    } field[] = {
        {0, 8, false},               /* identity of the request */
        {12, 2, false},              /* bus */
        {16, 8, false},              /* seconds */
        {24, 4, false},              /* microseconds */
        {28, 4, false},              /* status */
        {USB_URB_LENGTH, 4, false},  /* length of the request */
        {36, 4, false},              /* bytes captured */
        {40, 4, true},               /* errors, instead of the set-up bytes */
        {44, 4, true},               /* descriptors */
        {48, 4, false},              /* interval: here the mapped header goes on */
        {52, 4, false},              /* start frame */
        {56, 4, false},              /* transfer flags */
        {USB_DESCRIPTORS, 4, false}, /* descriptors in this packet */
    };
    uint32_t header_bytes = mmapped ? USB_MMAPPED_HEADER_BYTES : USB_HEADER_BYTES;
    bool isochronous = length > USB_TRANSFER_TYPE && bytes[USB_TRANSFER_TYPE] == USB_ISOCHRONOUS;
    for (size_t i = 0; i < sizeof field / sizeof field[0]; i++) {
        uint32_t end = (uint32_t)field[i].at + field[i].bytes;
        if (end > header_bytes)
            return;
        if (end > length)
            return;
        if (!field[i].isochronous_only || isochronous)
            turn(bytes + field[i].at, field[i].bytes);
    }
    if (!mmapped || !isochronous)
        return;
    uint32_t descriptors = file_get32(bytes + USB_DESCRIPTORS, false);
    uint32_t at = USB_MMAPPED_HEADER_BYTES;
    for (uint32_t i = 0; i < descriptors; i++) {
        for (uint32_t word = 0; word < 3;
             word++) { /* status, offset, length; the fourth is padding */
            if (length - at < 4)
                return;
            turn(bytes + at, 4);
            at += 4;
        }
        if (length - at < 4)
            return;
        at += 4;
    }
}

/* Type and length of each attribute behind the four bytes of the header; the values are in network
 * order. */
static void turn_nflog(uint8_t *bytes, uint32_t captured, uint32_t original)
{
    enum { HEADER_BYTES = 4, VERSION = 1, ATTRIBUTE_BYTES = 4 };
    if (captured < HEADER_BYTES || original < HEADER_BYTES || bytes[VERSION] != 0)
        return;
    bytes += HEADER_BYTES;
    captured -= HEADER_BYTES;
    original -= HEADER_BYTES;
    while (captured >= ATTRIBUTE_BYTES) {
        turn(bytes, 2);
        turn(bytes + 2, 2);
        uint16_t attribute = file_get16(bytes, false);
        if (attribute % 4 != 0) /* beyond 65,532 it wraps to 0 and ends the walk */
            attribute = (uint16_t)(attribute + 4 - attribute % 4);
        if (attribute < ATTRIBUTE_BYTES || attribute > captured || attribute > original)
            return;
        bytes += attribute;
        captured -= attribute;
        original -= attribute;
    }
}

/*
 * A completed incoming isochronous transfer leaves holes in its buffer, which its descriptors show;
 * old kernels gave the length of the request instead of the end of the last piece. Recognised by
 * just that wrong length.
 */
static uint32_t usb_original_length(const uint8_t *bytes, uint32_t captured, uint32_t original)
{
    enum { COMPLETED = 'C', INCOMING = 0x80 };
    if (captured < USB_MMAPPED_HEADER_BYTES || bytes[USB_DATA_FLAG] != 0 ||
        bytes[USB_TRANSFER_TYPE] != USB_ISOCHRONOUS || bytes[USB_EVENT_TYPE] != COMPLETED ||
        (bytes[USB_ENDPOINT] & INCOMING) == 0)
        return original;
    uint64_t descriptors = file_get32(bytes + USB_DESCRIPTORS, false);
    uint64_t before_data = USB_MMAPPED_HEADER_BYTES + descriptors * USB_DESCRIPTOR_BYTES;
    if (original != before_data + file_get32(bytes + USB_URB_LENGTH, false))
        return original;

    uint32_t data_end = 0;
    uint32_t left = captured - USB_MMAPPED_HEADER_BYTES;
    const uint8_t *descriptor = bytes + USB_MMAPPED_HEADER_BYTES;
    for (uint64_t i = 0; i < descriptors && left >= USB_DESCRIPTOR_BYTES; i++) {
        uint32_t piece_bytes = file_get32(descriptor + 8, false);
        uint32_t piece_end =
            file_get32(descriptor + 4, false) + piece_bytes; /* may wrap, as there */
        if (piece_bytes != 0 && piece_end > data_end)
            data_end = piece_end;
        descriptor += USB_DESCRIPTOR_BYTES;
        left -= USB_DESCRIPTOR_BYTES;
    }
    uint32_t length = (uint32_t)(before_data + data_end);
    if (length >= captured)
        original = length;
    return captured > original ? captured : original;
}

bool pseudo_header_concerns(uint16_t link_type, bool swapped)
{
    switch (link_type) {
    case LINK_USB_LINUX_MMAPPED:
        return true;
    case LINK_LINUX_SLL:
    case LINK_PFLOG:
    case LINK_LINUX_SLL2:
    case LINK_USB_LINUX:
    case LINK_NFLOG:
        return swapped;
    default:
        return false;
    }
}

uint32_t pseudo_header_mend(uint16_t link_type, bool swapped, uint8_t *bytes,
                            uint32_t captured_bytes, uint32_t original_bytes)
{
    if (swapped) {
        uint32_t shorter = captured_bytes < original_bytes ? captured_bytes : original_bytes;
        switch (link_type) {
        case LINK_LINUX_SLL:
            turn_cooked(bytes, shorter, 16, 14);
            break;
        case LINK_PFLOG:
            turn_pflog(bytes, shorter);
            break;
        case LINK_LINUX_SLL2:
            turn_cooked(bytes, shorter, 20, 0);
            break;
        case LINK_USB_LINUX:
            turn_usb(bytes, captured_bytes, false);
            break;
        case LINK_USB_LINUX_MMAPPED:
            turn_usb(bytes, captured_bytes, true);
            break;
        case LINK_NFLOG:
            turn_nflog(bytes, captured_bytes, original_bytes);
            break;
        }
    }
    if (link_type == LINK_USB_LINUX_MMAPPED)
        return usb_original_length(bytes, captured_bytes, original_bytes);
    return original_bytes;
}
