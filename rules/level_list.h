/*
 * level_list.h - the IP headers of a packet as the reading side asks for them.
 */
#ifndef RULES_LEVEL_LIST_H
#define RULES_LEVEL_LIST_H

#include "packet_levels.h"

packet_levels_of packet_levels;

#endif
