#ifndef LOOP_H
#define LOOP_H

/*
 * Does OPERATION over and over for SECONDS and leaves the number of times in
 * COUNT. Returns 0, or the CKR_ code of the call whose name is left in FAILED.
 */
unsigned long raw_loop(const char *module, unsigned long session, unsigned long key,
                       int operation, double seconds, unsigned long *count, const char **failed);

#endif
