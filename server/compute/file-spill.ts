/**
 * Pages that a compute must keep and has no room for, in a temporary file (smgr-plugin/pages/spill-store.ts).
 *
 * The file is removed from its folder as soon as it is open, so that nothing of it is left behind whatever way the process ends.
 */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { pageSize } from '../../engine/limits.ts';
import type { SpillStore } from '../../smgr-plugin/pages/spill-store.ts';

export class FileSpill implements SpillStore {
  readonly #dir: string;
  #fd: number | null = null;

  /** The file is made when the first page comes. */
  constructor(dir = tmpdir()) {
    this.#dir = dir;
  }

  write(slot: number, bytes: Uint8Array, offset: number): void {
    this.#guard(() => writeAll(this.#file(), bytes, offset, slot * pageSize));
  }

  read(slot: number, bytes: Uint8Array, offset: number): void {
    this.#guard(() => readAll(this.#file(), bytes, offset, slot * pageSize));
  }

  close(): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }

  #file(): number {
    if (this.#fd !== null) return this.#fd;
    const folder = mkdtempSync(join(this.#dir, 'pagelite-spill-'));
    this.#fd = openSync(join(folder, 'pages'), 'w+', 0o600);
    rmSync(folder, { recursive: true });
    return this.#fd;
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (cause) {
      const message = `the compute's temporary file in ${this.#dir} failed: ${messageOf(cause)}`;
      throw new PageliteError('unavailable', message, { file: this.#dir }, { cause });
    }
  }
}

function writeAll(fd: number, bytes: Uint8Array, offset: number, position: number): void {
  for (let done = 0; done < pageSize; ) {
    done += writeSync(fd, bytes, offset + done, pageSize - done, position + done);
  }
}

function readAll(fd: number, bytes: Uint8Array, offset: number, position: number): void {
  for (let done = 0; done < pageSize; ) {
    const count = readSync(fd, bytes, offset + done, pageSize - done, position + done);
    if (count === 0) throw new Error(`it ends at ${position + done}`);
    done += count;
  }
}
