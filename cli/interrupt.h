/*
 * interrupt.h - ^C, SIGTERM and SIGHUP as something to be asked for and waited for.
 *
 * The first one asks the command under way to end in good order, the second to give up at once; the
 * third ends the program wherever it is.
 */
#ifndef CLI_INTERRUPT_H
#define CLI_INTERRUPT_H

/* Installs the handlers; SIGPIPE becomes an error of write(2). Once, before anything else starts.
 */
void interrupt_open(void);

/* How many such signals have come. */
unsigned interrupt_count(void);

/* Readable when a signal has come; interrupt_drain() makes it unreadable again. For poll(2). */
int interrupt_fd(void);
void interrupt_drain(void);

/* In a child, before exec: signals as the program's caller would have them. */
void interrupt_reset(void);

#endif
