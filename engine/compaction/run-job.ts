/** Does jobs of compaction in the thread that asks, in turns; and one after another, whoever asks. */
import type { CompactionHost, CompactionParts, CompactionTask } from './compaction-parts.ts';
import { imageColumn } from './image-column.ts';
import { mergeDeltas } from './merge-deltas.ts';

export function runJob({ job, ...parts }: CompactionParts & Pick<CompactionTask, 'job'>): Promise<void> {
  return job.kind === 'mergeDeltas' ? mergeDeltas(job, parts) : imageColumn(job.column, job.lsn, parts);
}

export const inThisThread: CompactionHost = { run: runJob, close: async () => {} };

interface Waiting {
  readonly task: CompactionTask;
  readonly start: () => void;
}

/**
 * Memory and processor are those of one job, however many timelines have one. A timeline asks for its next job when the one before is done; by turns the one
 * whose reads pass the most flushed layers, and the one that has waited longest, so that none waits for ever.
 */
export class SerialCompaction implements CompactionHost {
  readonly #host: CompactionHost;
  readonly #waiting: Waiting[] = [];
  #isBusy = false;
  #isMostUrgentNext = true;

  constructor(host: CompactionHost) {
    this.#host = host;
  }

  async run(task: CompactionTask): Promise<void> {
    if (this.#isBusy) await new Promise<void>((start) => this.#waiting.push({ task, start }));
    this.#isBusy = true;
    try {
      task.signal.throwIfAborted();
      await this.#host.run(task);
    } finally {
      this.#startNext();
    }
  }

  close(): Promise<void> {
    return this.#host.close();
  }

  /** Stays busy in between: who comes meanwhile waits as the others do. */
  #startNext(): void {
    const waiting = this.#waiting;
    let next = 0;
    if (this.#isMostUrgentNext) {
      const urgencies = waiting.map(({ task }) => task.urgency());
      for (const [i, urgency] of urgencies.entries()) if (urgency > urgencies[next]!) next = i;
    }
    this.#isMostUrgentNext = !this.#isMostUrgentNext;
    const [found] = waiting.splice(next, 1);
    if (found === undefined) this.#isBusy = false;
    else found.start();
  }
}
