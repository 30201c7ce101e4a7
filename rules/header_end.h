/*
 * header_end.h - how much of a packet is headers, as the reading side asks for it.
 */
#ifndef RULES_HEADER_END_H
#define RULES_HEADER_END_H

#include "packet_headers.h"

packet_headers_of packet_headers;

#endif
