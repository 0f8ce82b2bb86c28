/**
 * The relations of one database: which forks exist. Stored under `relDirectoryKey(spc, db)` as an image with patches on top.
 *
 * Image: byte 0 version (1), then (u32 rel, u8 fork) per fork in ascending order. Patch body: (u8 1 add or 0 remove, u32 rel, u8 fork)...
 */
import { PageliteError } from '../errors.ts';
import type { ForkNumber } from '../model/rel.ts';
import { patchType } from './patch.ts';

const version = 1;

export class RelDirectory {
  /** rel * 4 + fork */
  readonly #entries = new Set<number>();

  static decode(image: Uint8Array | null): RelDirectory {
    const directory = new RelDirectory();
    if (image === null || image.length === 0) return directory;
    if (image[0] !== version || (image.length - 1) % 5 !== 0) {
      throw new PageliteError('corrupt', `relation directory of version ${image[0]} and ${image.length} bytes`);
    }
    const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
    for (let at = 1; at < image.length; at += 5) directory.#entries.add(view.getUint32(at, true) * 4 + image[at + 4]!);
    return directory;
  }

  encode(): Uint8Array {
    const sorted = [...this.#entries].sort((a, b) => a - b);
    const image = new Uint8Array(1 + sorted.length * 5);
    const view = new DataView(image.buffer);
    image[0] = version;
    sorted.forEach((entry, i) => {
      view.setUint32(1 + i * 5, Math.floor(entry / 4), true);
      image[5 + i * 5] = entry % 4;
    });
    return image;
  }

  has(rel: number, fork: number): boolean {
    return this.#entries.has(rel * 4 + fork);
  }

  add(rel: number, fork: number): void {
    this.#entries.add(rel * 4 + fork);
  }

  remove(rel: number, fork: number): void {
    this.#entries.delete(rel * 4 + fork);
  }

  /** Applies the body of a patch. */
  apply(body: Uint8Array): void {
    const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
    for (let at = 0; at < body.length; at += 6) {
      const entry = view.getUint32(at + 1, true) * 4 + body[at + 5]!;
      if (body[at] === 1) this.#entries.add(entry);
      else this.#entries.delete(entry);
    }
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Ascending. */
  list(): { rel: number; fork: ForkNumber }[] {
    return [...this.#entries]
      .sort((a, b) => a - b)
      .map((entry) => ({ rel: Math.floor(entry / 4), fork: (entry % 4) as ForkNumber }));
  }
}

export function directoryPatch(add: boolean, rel: number, fork: number): Uint8Array {
  const patch = new Uint8Array(7);
  patch[0] = patchType.directory;
  patch[1] = add ? 1 : 0;
  new DataView(patch.buffer).setUint32(2, rel, true);
  patch[6] = fork;
  return patch;
}
