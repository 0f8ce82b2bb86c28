/**
 * Reads under way that hold layers of a timeline, so that a layer's object is deleted only after the last read that may use it.
 *
 * A read that waits for nothing needs no entry here: nothing is deleted while it runs. The others enter when they first wait (gather.ts) and leave when
 * they end. `gone` closes the present epoch: it resolves when the reads of this one and of those before have left; later reads found the new layers.
 */

export interface ReaderEpoch {
  count: number;
  isClosed: boolean;
  resolve: () => void;
}

export class Readers {
  #epoch: ReaderEpoch = newEpoch();
  /** The end of all epochs that are closed. */
  #before: Promise<void> = Promise.resolve();

  enter(): ReaderEpoch {
    this.#epoch.count++;
    return this.#epoch;
  }

  leave(epoch: ReaderEpoch): void {
    epoch.count--;
    if (epoch.count === 0 && epoch.isClosed) epoch.resolve();
  }

  /** Resolves when every read that has entered by now has left. */
  gone(): Promise<void> {
    const epoch = this.#epoch;
    if (epoch.count > 0) {
      this.#epoch = newEpoch();
      epoch.isClosed = true;
      const ended = new Promise<void>((resolve) => {
        epoch.resolve = resolve;
      });
      this.#before = Promise.all([this.#before, ended]).then(() => {});
    }
    return this.#before;
  }
}

function newEpoch(): ReaderEpoch {
  return { count: 0, isClosed: false, resolve: () => {} };
}
