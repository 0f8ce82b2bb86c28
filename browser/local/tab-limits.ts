/**
 * Bounds of the engine in a tab: a tab that takes much memory is ended by the browser, and every byte in IndexedDB is the visitor's.
 *
 * In memory at most: two frozen layers and the open one (48 MB, of a bulk load only), blocks of layer files 32 MB, rebuilt pages 16 MB, and the page
 * cache's own memory (stores/page-cache.ts).
 */
import { openChainLengthMax } from '../../engine/limits.ts';
import type { PageserverLimits } from '../../engine/timeline/pageserver.ts';
import type { TenantConfig } from '../../engine/timeline/tenant-config.ts';

const megabyte = 1024 * 1024;

export const tabLimits: Partial<PageserverLimits> = {
  openLayerBytesMax: 16 * megabyte,
  openChainLengthMax,
  frozenLayersMax: 2,
  blockCacheBytesMax: 32 * megabyte,
  pageVersionsBytesMax: 16 * megabyte,
};

export const tabConfig: Partial<TenantConfig> = {
  /** What a reload reads again at most: 32 MB of WAL are ingested in about half a second. */
  checkpoint_distance: 32 * megabyte,
  compaction_target_size: 16 * megabyte,
  /** A branch that was pulled is pushed back as what was changed since: all of its history is kept. */
  gc_period: 0,
};

/** A branch that nobody has written to for this long is flushed, if there is enough to: the next load then reads layers, not WAL. */
export const idleFlushAfterMs = 4_000;
export const idleFlushBytesMin = 128 * 1024;

/** How long `open` waits for the tab's previous page to let go of the repository: a reload is not a second tab. */
export const lockWaitMs = 3_000;
