/**
 * Sizes fixed by PostgreSQL's build, and every bound of Pagelite with its reason. Relations between them are asserted at load.
 */
import { assert } from './assert.ts';

/** PostgreSQL's BLCKSZ and XLOG_BLCKSZ in this build. */
export const pageSize = 8192;
/** wal_segment_size of this build. */
export const walSegmentSize = 16 * 1024 * 1024;
/** Blocks in one file of a relation (RELSEG_SIZE): 1 GB. */
export const relSegmentBlocks = 131072;
/** Highest block number is 0xFFFFFFFE (InvalidBlockNumber is 0xFFFFFFFF). */
export const blockNumberMax = 0xfffffffe;
/** XLogRecordMaxSize of PostgreSQL (xlogrecord.h): 1020 MB. A length above it is garbage, not a record. */
export const walRecordBytesMax = 1020 * 1024 * 1024;
/** XLR_MAX_BLOCK_ID + 1 (xlogrecord.h). */
export const walRecordBlocksMax = 33;
/** Blocks of an SLRU segment file (slru.h SLRU_PAGES_PER_SEGMENT). */
export const slruSegmentBlocks = 32;

/** Pages of one getPages answer: 1 MiB, so that an answer fits the sync bridge's data area with room for headers. */
export const pagesPerRequestMax = 128;
/** Bytes of one WAL message between proposer, safekeeper and pageserver (Neon's MAX_SEND_SIZE is 16 WAL pages; larger pays here). */
export const walMessageBytesMax = 1024 * 1024;
/** Any message on a Channel: a full page answer or a basebackup chunk, with headers. Larger is refused before it is read. */
export const channelMessageBytesMax = 64 * 1024 * 1024;
/** WAL a compute may have written that no safekeeper acknowledged: bounds memory of proposer and compute. */
export const walInFlightBytesMax = 32 * 1024 * 1024;
/** How long a read waits for an LSN that has not arrived (Neon's wait_lsn_timeout is 60 s). */
export const waitLsnTimeoutMs = 60_000;

assert(pagesPerRequestMax * pageSize <= channelMessageBytesMax);
assert(walSegmentSize % pageSize === 0);
