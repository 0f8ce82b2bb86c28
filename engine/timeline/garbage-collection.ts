/**
 * Removes layers that nothing needs any more: retention.ts says what must stay readable, compaction/removable-layers.ts which layers that takes.
 *
 * The cutoff is raised first, at once and for good: whoever comes later reads at or after it, or at a point that is kept. The index without the
 * layers is stored next, and the layers are deleted last, when the reads that may still use them have ended (upload-queue.ts).
 *
 * Invariants
 * - the cutoff is not above what the store has: who attaches the tenant elsewhere, without the WAL that is only in memory here, reads from it on
 * - layers that a lease needs go together with it: a lease that the index has is of an LSN that can be read
 */
import { removableLayers } from '../compaction/removable-layers.ts';
import type { Lsn } from '../model/lsn.ts';
import { layerKey } from './index-part.ts';
import type { Timeline } from './timeline.ts';
import type { UploadQueue } from './upload-queue.ts';

export interface GcResult {
  readonly cutoffLsn: Lsn | null;
  readonly layersRemoved: number;
  readonly bytesRemoved: number;
  readonly layersKept: number;
  /** Why nothing was looked at; null if it was. */
  readonly skipped: string | null;
}

export function skipped(reason: string): GcResult {
  return { cutoffLsn: null, layersRemoved: 0, bytesRemoved: 0, layersKept: 0, skipped: reason };
}

export interface GcInputs {
  readonly cutoffLsn: Lsn;
  /** LSNs before the cutoff that must stay readable: those that are leased now, and others. */
  readonly leases: readonly Lsn[];
  readonly points: readonly Lsn[];
}

/** Resolves when the index without the removed layers is stored. */
export async function collectGarbage(
  timeline: Timeline,
  uploads: UploadQueue,
  { cutoffLsn, leases, points }: GcInputs,
): Promise<GcResult> {
  const { diskConsistentLsn: storedLsn } = uploads.storedPart;
  // Another one may have come before.
  const cutoff = Math.max(Math.min(cutoffLsn, storedLsn), timeline.gcCutoffLsn) as Lsn;
  timeline.raiseGcCutoff(cutoff);
  const files = timeline.layers.files.layers();
  const removed = removableLayers(files, cutoff, [...leases, ...points]);
  if (removed.length > 0 || cutoff !== uploads.part.gcCutoffLsn) {
    const gone = new Set(removed.map(({ key }) => key));
    const leased = new Set(leases);
    timeline.filesChanged([], removed);
    await uploads.change((part) => ({
      ...part,
      gcCutoffLsn: cutoff,
      leases: part.leases.filter(({ lsn }) => leased.has(lsn)),
      layers: part.layers.filter((entry) => !gone.has(layerKey(uploads.id, entry))),
    }));
  }
  for (const file of removed) file.forget();
  return {
    cutoffLsn: cutoff,
    layersRemoved: removed.length,
    bytesRemoved: removed.reduce((sum, { size }) => sum + size, 0),
    layersKept: files.length - removed.length,
    skipped: null,
  };
}
