/**
 * Gives the event loop a turn between pieces of work.
 *
 * Pages are rebuilt synchronously (WAL redo runs in the thread that serves), so that a burst of pipelined reads, each of them short,
 * would keep the process from its sockets, timers and WAL streams. Pieces start one after another, each when the one before has come as far as it could
 * without waiting, until `turnMs` have passed; the next one starts in the next turn of the loop, after I/O was looked at. Work is started in the order given.
 */
/** Long enough for a few cached pages, whose answers then leave together (net/ws-channel.ts); short beside a commit. */
const turnMs = 0.25;

export class Turns {
  #queue: (() => void)[] = [];
  #head = 0;
  #startedAtMs = 0;
  #taken = false;

  get length(): number {
    return this.#queue.length - this.#head;
  }

  /** Starts `work` now if nothing is being started, else in its turn. It must not throw. */
  run(work: () => void): void {
    if (this.#taken) {
      this.#queue.push(work);
      return;
    }
    this.#taken = true;
    this.#startedAtMs = performance.now();
    this.#start(work);
  }

  #start(work: () => void): void {
    work();
    // Ticks come after microtasks, in which cached work goes on.
    queueMicrotask(this.#afterMicrotasks);
  }

  readonly #afterMicrotasks = (): void => process.nextTick(this.#goOn);

  readonly #goOn = (): void => {
    if (performance.now() - this.#startedAtMs < turnMs) this.#next();
    else setImmediate(this.#nextTurn);
  };

  readonly #nextTurn = (): void => {
    this.#startedAtMs = performance.now();
    this.#next();
  };

  #next(): void {
    const work = this.#queue[this.#head];
    if (work === undefined) {
      this.#queue = [];
      this.#head = 0;
      this.#taken = false;
      return;
    }
    this.#head++;
    this.#start(work);
  }
}
