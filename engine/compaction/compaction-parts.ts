/** What a job of compaction works with, wherever it runs: beside the timeline in a tab, in a worker thread in Node. */
import type { LayerFile } from '../layers/layer-file.ts';
import type { WrittenLayer } from '../layers/layer-writer.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import type { Log, WalRedo } from '../services.ts';
import type { TimelineView } from '../timeline/gather.ts';
import type { YieldTurn } from '../timeline/reconstruct.ts';
import type { CompactionJob } from './plan.ts';

export interface CompactionParts {
  readonly id: TenantTimelineId;
  /** The timeline up to the end of what is compacted, its ancestors too. */
  readonly view: TimelineView & { readonly redo: WalRedo };
  /** Bytes of a layer that is written. */
  readonly targetBytes: number;
  /** A chain this long gets an image within the deltas. */
  readonly chainRecordsMin: number;
  readonly chainBytesMin: number;
  readonly log: Log;
  readonly yieldTurn: YieldTurn;
  readonly signal: AbortSignal;
  /** Makes a layer readable; nothing names it yet. */
  put(layer: WrittenLayer, isComplete: boolean): Promise<void>;
  /** Bytes that were written since the last call. */
  onProgress(bytes: number): void;
}

export interface CompactionTask extends CompactionParts {
  readonly job: CompactionJob<LayerFile>;
  /** Flushed layers of the timeline that wait to be merged, now: reads pass each of them. */
  urgency(): number;
}

/** Where jobs are done. */
export interface CompactionHost {
  /** Resolves when all layers of the job are put. */
  run(task: CompactionTask): Promise<void>;
  close(): Promise<void>;
}
