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
/** server_version_num of the PGlite that Pagelite is built for. */
export const pgVersionNumber = 180006;
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
/** WAL that a compute may be ahead of what the pageserver has ingested before its writers wait (Neon's max_replication_write_lag). */
export const maxReplicationWriteLagBytes = 500 * 1024 * 1024;
/** How often a compute that is far ahead asks the pageserver how far it is. */
export const pageserverLagPollMs = 100;
/** How long a read waits for an LSN that has not arrived (Neon's wait_lsn_timeout is 60 s). */
export const waitLsnTimeoutMs = 60_000;
/** A timeline that begins anew waits so long for reads of its layers to end: far longer than any takes that waits for nothing itself. */
export const rebuildReadersMaxMs = 2_000;

/** Keys of one getImages request: the segments of a large clog or the directories of all databases, asked for at once. */
export const keysPerRequestMax = 1024;
/** A request of the page service is its header and at most `keysPerRequestMax` keys of 18 bytes; anything longer is garbage. */
export const pagestreamRequestBytesMax = 64 * 1024;
/** Requests of one connection that are not answered yet: enough for the widest read-ahead, and a bound on what a server queues. */
export const pagestreamInFlightMax = 256;
/** Answer bytes that a slow reader may leave in a server's socket before the server starts no more of its requests. */
export const pagestreamUnsentBytesMax = 16 * 1024 * 1024;
/** A basebackup is streamed in messages of this size, so that page answers pass between them. */
export const basebackupChunkBytes = 256 * 1024;
/** A whole basebackup: non-relation files (clog is at most 512 MB for 2^31 transactions) and prewarm pages. */
export const basebackupBytesMax = 1024 * 1024 * 1024;
/** How long a read is retried over lost connections before the caller hears `unavailable`: a pageserver restarts well within it. */
export const remoteRetryTimeLimitMs = 120_000;
/** First and longest pause between attempts to connect; each attempt doubles it, with jitter. */
export const reconnectPauseMinMs = 20;
export const reconnectPauseMaxMs = 2_000;
/** A connection with requests under way that says nothing for this long is given up. Longer than the longest wait for an LSN. */
export const channelSilenceMaxMs = waitLsnTimeoutMs + 15_000;
/** A connection must say hello within this time. */
export const pagestreamHelloTimeoutMs = 15_000;
/** Entries of a term history: one per election that wrote, so years of a compute that restarts every minute. Bounds what a peer makes us read. */
export const termHistoryEntriesMax = 1_000_000;
/**
 * A candidate's term is at most so far above the one that a safekeeper knows: more than any number of elections it can have missed, and so little of what a
 * term can be that one that is nonsense does not use up all that come after it.
 */
export const termStepMax = 2 ** 32;
/** WAL of one proposer that a safekeeper has received and not made durable: above what a correct proposer has in flight. */
export const walUnsyncedBytesMax = 2 * walInFlightBytesMax;
/** The newest WAL of a timeline that a safekeeper keeps in memory, so that those who follow it cost no disk reads. */
export const walTailCacheBytesMax = 4 * 1024 * 1024;
/** WAL a safekeeper sends to one reader ahead of what that reader says it has consumed. */
export const walReaderWindowBytes = 8 * 1024 * 1024;
/** A WAL segment file is filled with zeros ahead of its end in steps of this size: a commit then overwrites blocks that exist. */
export const walZeroFillBytes = 1024 * 1024;
/** How far a safekeeper's stored commitLsn may lag before it is stored again; bounds what a restart has to scan. */
export const commitLsnLagBytesMax = walSegmentSize;
/** Safekeepers of one timeline. */
export const safekeepersMax = 64;
/** How often safekeepers tell each other what they have, and look after their WAL: bounds how soon one that lags begins to catch up (Neon: 1 s). */
export const safekeeperUpkeepPauseMs = 1_000;
/** A peer that has not answered by then is away. */
export const safekeeperPeerTimeoutMs = 3_000;
/** So long proposers wait at the start of a safekeeper for peers that do not answer: those that begin at the same time do by then. */
export const safekeeperRecallTimeoutMs = 2_000;
/** Pause before a peer that is away is asked again, then and while a safekeeper catches up before it answers. */
export const safekeeperRecallPauseMs = 100;
/** A donor that fails so often while a safekeeper catches up before it answers proposers is away. */
export const readmissionAttemptsMax = 10;
/** How far a safekeeper's commitLsn may be behind the others' for it to be the one that sends WAL to the object store. */
export const backupLagBytesMax = walSegmentSize;
/** WAL that no full segment has been made of is sent when there has been nothing new for so long (Neon: 15 minutes; here a wiped disk costs less). */
export const partialBackupPauseMs = 10_000;
/** And at the latest after so long. */
export const partialBackupPauseMaxMs = 60_000;
/** A safekeeper that ends waits so long for the end of its WAL to be in the object store. */
export const lastBackupMaxMs = 3_000;
/** A full segment that nobody sends for so long is sent by another safekeeper than the one that should. */
export const backupTakeOverMs = 10_000;
/** Pause after a failure to send WAL to the object store. */
export const backupRetryPauseMs = 5_000;
/** A proposer asks each quiet safekeeper for a sign of life this often, and gives up a connection that is silent for the second time. */
export const proposerHeartbeatMs = 1_000;
export const safekeeperSilenceMaxMs = 10_000;

/** Data blocks of delta layers are closed at this size: small enough for one page's records, large enough that the index stays under 0.3%. */
export const deltaBlockBytes = 16 * 1024;
/** In image layers a page has a block of its own. */
export const imageBlockBytes = 8 * 1024;
/** Neighbouring blocks of a layer file are read with one request up to this size. */
export const layerReadBytesMax = 4 * 1024 * 1024;
/** Values in the open layer of a timeline before it is frozen and written out: one delta layer of about this size. */
export const openLayerBytesMax = 64 * 1024 * 1024;
/** Records of one page in the open layer before it gets an image there: a read of a page that changes all the time redoes no more (3 ms). */
export const openChainLengthMax = 512;
/** WAL after which the open layer is frozen however little it holds: bounds what is read again after a crash (Neon's checkpoint_distance). */
export const flushWalDistance = 256 * 1024 * 1024;
/** Frozen layers of a timeline that wait to be written before ingest waits too: bounds memory to about four layers. */
export const frozenLayersMax = 2;
/** Blocks of layer files in memory, all timelines together. */
export const blockCacheBytesMax = 64 * 1024 * 1024;
/** Pages that were rebuilt from records, kept for the next read, all timelines together. */
export const pageVersionsBytesMax = 32 * 1024 * 1024;
/** A read of pages that takes this long, or looks into this many layers for one page (Neon warns at 100), is told to the log. */
export const slowReadMs = 1_000;
export const slowReadLayers = 100;
/** A timeline tells of slow reads this often at most. */
export const slowReadLogPauseMs = 10_000;
/** How long somebody who asks for a timeline waits until its logical size is counted for the first time. */
export const logicalSizeWaitMs = 250;
/** WAL records redone before the event loop has a turn: about 10 ms. */
export const redoRecordsPerTurn = 2000;
/** WAL bytes ingested before the event loop has a turn: about 3 ms. */
export const ingestBytesPerTurn = 512 * 1024;
/** A page whose chain is this long, in records or in bytes, gets an image when its layers are merged: it is then read rather than rebuilt. */
export const imageChainRecordsMin = 8;
export const imageChainBytesMin = 4096;
/** Layers of one import: with layers of 4 MB, 80 GB. Bounds the list that is checked and stored at once. */
export const importLayersMax = 20_000;
/** One layer that is imported: it is in memory while it is checked. Layers written here are a quarter of it, and a value more. */
export const importLayerBytesMax = 256 * 1024 * 1024;
/** Layers travel in parts of at most this size; what has arrived is not sent again. */
export const importPartBytesMax = 8 * 1024 * 1024;
/** An import that nobody has gone on with for so long is given up, and what has arrived is removed. */
export const importIdleMaxMs = 3 * 24 * 60 * 60 * 1000;
/** An image layer of a timeline that is copied from elsewhere: what is read again at most when that is cut off. */
export const copyLayerBytesMax = 8 * 1024 * 1024;
/** Requests of a copy that are under way, a megabyte each: enough to keep a line busy, and a bound on memory. */
export const copyRequestsMax = 6;
/** How long a safekeeper may take to say whether it has WAL of a timeline. */
export const walFenceTimeoutMs = 10_000;
/** A timeline that nobody writes to is flushed after this, so that its WAL need not be kept (Neon's checkpoint_timeout). */
export const checkpointTimeoutMs = 10 * 60 * 1000;
/** Flushed layers before they are merged: a read passes each of them (Neon's compaction_threshold, 10 there). */
export const compactionThreshold = 3;
/** With this many times as many flushed layers each flush takes twice as long (Neon's l0_flush_delay_threshold)... */
export const l0FlushDelayFactor = 3;
/** ...and with this many no more are flushed until some are merged, if they can be (Neon's l0_flush_stall_threshold): reads pass no more than these. */
export const l0FlushStallFactor = 10;
/** A layer that compaction writes is closed at this size: it is in memory while it is written (Neon's compaction_target_size). */
export const compactionTargetBytes = 64 * 1024 * 1024;
/** What a merge reads ahead of each of its inputs at once, and of all of them together: of many inputs it reads less at once, a block at least. */
export const cursorRunBytes = 1024 * 1024;
export const mergeReadAheadBytesMax = 32 * 1024 * 1024;
/** Flushed layers that one merge takes, whatever their size: the next value is looked for among all of its inputs. */
export const mergeInputsMax = 64;
/** Keys with more values than a layer holds: a layer is closed within a key, whatever compaction_target_size says, at this size. */
export const layerBytesMax = 128 * 1024 * 1024;
/** Blocks of layer files that a job of compaction in a thread of its own keeps: those that reads of pages come to again. */
export const compactionCacheBytes = 32 * 1024 * 1024;
/** Flushed bytes that one merge takes, beside the first few layers: bounds how long it lasts, and what a crash repeats. */
export const mergeInputBytesMax = 1024 * 1024 * 1024;
/** Runs of delta layers that may lie above the images of a column: a read passes each of them. */
export const columnRunsMax = 2;
/** A column gets new images when deltas above its images are this part of their size... */
export const imageDeltaRatio = 0.5;
/** ...and at least this much, so that small columns do not get images all the time. */
export const imageDeltaBytesMin = 4 * 1024 * 1024;
/** Compaction that failed is tried again after this, doubled each time up to the maximum. */
export const compactionRetryMinMs = 1_000;
export const compactionRetryMaxMs = 60_000;
/** Keys with a damaged layer or page are left alone for this long. */
export const compactionBlockedMs = 10 * 60 * 1000;
/** A damaged object that reads keep finding is told of again after this, and of so many it is remembered that they were told of. */
export const damageLogPauseMs = 60 * 60 * 1000;
export const damagedObjectsMax = 1000;
/** How often a pageserver looks which of its timelines want compaction, garbage collection or a flush. */
export const housekeepingPeriodMs = 1_000;
/** How often compaction looks for something to do, beside after each flush (Neon's compaction_period). */
export const compactionPeriodMs = 20_000;
/** WAL of history that is kept however old it is (Neon's gc_horizon). */
export const gcHorizonBytes = 64 * 1024 * 1024;
/** How often garbage is collected (Neon's gc_period). */
export const gcPeriodMs = 60 * 60 * 1000;
/** How long history is kept (Neon's pitr_interval). */
export const pitrIntervalMs = 7 * 24 * 60 * 60 * 1000;
/** How long an LSN that was asked for stays readable (Neon's lsn_lease_length); whoever holds a lease renews it twice in that time. */
export const lsnLeaseLengthMs = 10 * 60 * 1000;
/** However short leases are (0: none are given), their holders ask no more often than this. */
export const leaseRenewPauseMinMs = 100;
/** Before a lease that could not be renewed is asked for again. */
export const leaseRetryPauseMs = 5_000;
/** Requests to an S3 server: how long until it is connected, and until it answers or sends more. */
export const s3ConnectTimeoutMs = 5_000;
export const s3RequestTimeoutMs = 30_000;
/** Times that a request is sent before it has failed; the SDK waits in between, longer each time. */
export const s3AttemptsMax = 4;
/** What a pageserver reads of a remote layer at once, and keeps of it on its disk. */
export const cacheChunkBytes = 1024 * 1024;
/** Of a chunk on disk, what is checked together. */
export const cacheBlockBytes = 32 * 1024;
/** Of the disk, what a pageserver keeps layers of its remote storage on. */
export const diskBudgetBytes = 10 * 1024 * 1024 * 1024;
/** Pause of a WAL receiver when a safekeeper does not have its timeline yet or is away: doubled up to the maximum, cut short when a read waits. */
export const walReceiverPauseMinMs = 20;
export const walReceiverPauseMaxMs = 1_000;
/** Pause after a failure to tell safekeepers what is stored. */
export const consistencyReportPauseMs = 5_000;
/** Safekeepers that have not said what they have when another one has are waited for this long. */
export const walReceiverGraceMs = 500;
/** A WAL stream that is silent for this long is compared with what the other safekeepers have. */
export const walReceiverSilenceMs = 2_000;

assert(pagesPerRequestMax * pageSize <= channelMessageBytesMax);
assert(walSegmentSize % pageSize === 0);
assert(2 * layerBytesMax <= importLayerBytesMax);
assert(openLayerBytesMax < layerBytesMax);
assert(keysPerRequestMax * 18 + 64 <= pagestreamRequestBytesMax);
assert(basebackupChunkBytes + 64 <= channelMessageBytesMax);
assert(waitLsnTimeoutMs < channelSilenceMaxMs);
assert(walMessageBytesMax + 64 <= channelMessageBytesMax);
assert(walMessageBytesMax <= walReaderWindowBytes);
assert(walInFlightBytesMax < walUnsyncedBytesMax);
assert(walSegmentSize % walZeroFillBytes === 0);
assert(termHistoryEntriesMax * 16 + 128 <= channelMessageBytesMax);
assert(proposerHeartbeatMs * 2 < safekeeperSilenceMaxMs);
