/**
 * The shared buffers of the redo instance: where rm_redo leaves the page, and what must be gone before the next one.
 *
 * Called by the redo driver around each page. Buffers are few (redo-instance.ts), so they are looked through.
 */
import { PageliteError } from '../errors.ts';
import { pageSize } from '../limits.ts';
import { junkRel, scratchRel } from './redo-files.ts';
import type { RedoInstance } from './redo-instance.ts';
import { bufferDesc, bufferState } from './rmgr-abi.ts';

export class RedoBuffers {
  /** A buffer could not be emptied: the instance must not be used any more. */
  stuck = false;

  readonly #instance: RedoInstance;
  readonly #descriptors: number;
  readonly #blocks: number;
  readonly #bufferCount: number;
  readonly #flag: number;
  readonly #evict: (buffer: number, flushed: number) => number;

  constructor(instance: RedoInstance) {
    instance.checkBuffers();
    this.#instance = instance;
    this.#descriptors = instance.word(instance.global('BufferDescriptors'));
    this.#blocks = instance.word(instance.global('BufferBlocks'));
    this.#bufferCount = instance.word(instance.global('NBuffers'));
    this.#flag = instance.function('malloc')(8);
    this.#evict = instance.function('EvictUnpinnedBuffer');
  }

  /** The target's page as redo left it, whose buffer is then empty; null if it is in no buffer. */
  takeTarget(fork: number, block: number): Uint8Array | null {
    const index = this.#indexOf(fork, block);
    if (index < 0) return null;
    const at = this.#blocks + index * pageSize;
    const page = this.#instance.module.HEAPU8.slice(at, at + pageSize);
    this.#drop(index);
    return page;
  }

  /** So that the target is read from its file. */
  dropTarget(fork: number, block: number): void {
    const index = this.#indexOf(fork, block);
    if (index >= 0) this.#drop(index);
  }

  /** Drops the junk that redo has initialised or restored. */
  dropJunk(): void {
    for (let i = 0; i < this.#bufferCount; i++) {
      const descriptor = this.#descriptors + i * bufferDesc.bytes;
      if (this.#instance.word(descriptor + bufferDesc.rel) !== junkRel) continue;
      const state = this.#instance.word(descriptor + bufferDesc.state);
      if (state & bufferState.valid && state & bufferState.dirty) this.#drop(i);
    }
  }

  /** After an error: nothing of either relation stays. */
  dropAll(): void {
    for (let i = 0; i < this.#bufferCount; i++) {
      const rel = this.#instance.word(this.#descriptors + i * bufferDesc.bytes + bufferDesc.rel);
      if (rel === scratchRel || rel === junkRel) this.#drop(i);
    }
  }

  /**
   * Empties a buffer without writing it out. That fails if somebody has it pinned, which is nobody here unless a redo function forgot its pin:
   * then the page would stay and be taken for another one's, so this instance has to go.
   */
  #drop(index: number): void {
    const at = this.#descriptors + index * bufferDesc.bytes + bufferDesc.state;
    const clean = ~(bufferState.dirty | bufferState.justDirtied | bufferState.checkpointNeeded);
    this.#instance.setWord(at, (this.#instance.word(at) & clean) >>> 0);
    if (this.#evict(index + 1, this.#flag) === 0) {
      this.stuck = true;
      throw new PageliteError('unavailable', 'a buffer of the redo instance stays pinned');
    }
  }

  #indexOf(fork: number, block: number): number {
    for (let i = 0; i < this.#bufferCount; i++) {
      const descriptor = this.#descriptors + i * bufferDesc.bytes;
      if (!this.#tagIs(descriptor, scratchRel, fork, block)) continue;
      const state = this.#instance.word(descriptor + bufferDesc.state);
      if (state & bufferState.tagValid && state & bufferState.valid) return i;
    }
    return -1;
  }

  #tagIs(descriptor: number, rel: number, fork: number, block: number): boolean {
    const words = this.#instance.words;
    const at = descriptor >> 2;
    return words[at + 4] === block && words[at + 2] === rel && words[at + 3] === fork;
  }
}
