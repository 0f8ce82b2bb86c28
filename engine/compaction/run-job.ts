/** Does jobs of compaction in the thread that asks, in turns; and one after another, whoever asks. */
import type { CompactionHost, CompactionTask } from './compaction-parts.ts';
import { imageColumn } from './image-column.ts';
import { mergeDeltas } from './merge-deltas.ts';

export function runJob({ job, ...parts }: CompactionTask): Promise<void> {
  return job.kind === 'mergeDeltas' ? mergeDeltas(job, parts) : imageColumn(job.column, job.lsn, parts);
}

export const inThisThread: CompactionHost = { run: runJob, close: async () => {} };

/** Memory and processor are those of one job, however many timelines have one. */
export class SerialCompaction implements CompactionHost {
  readonly #host: CompactionHost;
  #last: Promise<unknown> = Promise.resolve();

  constructor(host: CompactionHost) {
    this.#host = host;
  }

  run(task: CompactionTask): Promise<void> {
    const done = this.#last.then(() => {
      task.signal.throwIfAborted();
      return this.#host.run(task);
    });
    this.#last = done.catch(() => {});
    return done;
  }

  close(): Promise<void> {
    return this.#host.close();
  }
}
