"""A second, slow and obvious reader of pcap and pcapng, to compare with: no code in common with the project's."""

import struct


class Damaged(Exception):
    pass


def packets(data):
    """
    [(link type, time in ns, original length, bytes)] of a capture file, and None or what is wrong with its end.
    """
    if len(data) < 4:
        return [], "shorter than a magic number"
    magic = data[:4]
    if magic == b"\x0a\x0d\x0d\x0a":
        return _pcapng(data)
    for order in "<>":
        for number, unit in ((0xa1b2c3d4, 1000), (0xa1b23c4d, 1)):
            if magic == struct.pack(order + "I", number):
                return _pcap(data, order, unit)
    return [], "no capture file"


def _pcap(data, order, unit):
    if len(data) < 24:
        return [], "cut header"
    snapshot, network = struct.unpack_from(order + "II", data, 16)
    link_type = network & 0xffff
    found, at = [], 24
    while at < len(data):
        if at + 16 > len(data):
            return found, "cut record header"
        seconds, fraction, captured, original = struct.unpack_from(order + "IIII", data, at)
        if captured > 262144 * 64:
            return found, "absurd record"
        if at + 16 + captured > len(data):
            return found, "cut record"
        kept = min(captured, snapshot) if 0 < snapshot < 262144 else captured  # as tcpdump: no packet is longer than that
        found.append((link_type, seconds * 10**9 + fraction * unit, original, data[at + 16:at + 16 + kept]))
        at += 16 + captured
    return found, None


def _options(data, order):
    at, options = 0, {}
    while at + 4 <= len(data):
        code, length = struct.unpack_from(order + "HH", data, at)
        if code == 0:
            break
        options.setdefault(code, data[at + 4:at + 4 + length])
        at += 4 + (length + 3) // 4 * 4
    return options


def _time(raw, interface):
    resolution, offset = interface[2], interface[3]
    base = 2 ** (resolution & 127) if resolution & 128 else 10 ** resolution
    return raw * 10**9 // base + offset * 10**9


def _pcapng(data):
    found, at, order, interfaces = [], 0, "<", []
    while at < len(data):
        if at + 12 > len(data):
            return found, "cut block header"
        if data[at:at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[at + 8:at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        kind, length = struct.unpack_from(order + "II", data, at)
        if length < 12 or length % 4 or at + length > len(data):
            return found, "cut block"
        body = data[at + 8:at + length - 4]
        if kind == 1:
            link_type, _, snapshot = struct.unpack_from(order + "HHI", body)
            options = _options(body[8:], order)
            offset = struct.unpack(order + "q", options[14])[0] if 14 in options else 0
            interfaces.append((link_type, snapshot, options.get(9, b"\x06")[0], offset))
        elif kind == 6:
            number, high, low, captured, original = struct.unpack_from(order + "IIIII", body)
            interface = interfaces[number]
            found.append((interface[0], _time(high << 32 | low, interface), original, body[20:20 + captured]))
        elif kind == 2:
            number, _, high, low, captured, original = struct.unpack_from(order + "HHIIII", body)
            interface = interfaces[number]
            found.append((interface[0], _time(high << 32 | low, interface), original, body[20:20 + captured]))
        elif kind == 3:
            original, = struct.unpack_from(order + "I", body)
            interface = interfaces[0]
            captured = min(original, interface[1] or original, len(body) - 4)
            found.append((interface[0], 0, original, body[4:4 + captured]))
        at += length
    return found, None
