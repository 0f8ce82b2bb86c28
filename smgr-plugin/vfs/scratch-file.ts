/**
 * R1. A file of base/pgsql_tmp: what a sort or a hash has no memory for.
 *
 * It can be larger than everything else, so its bytes are pages of a relation that only exists here: they share the page cache and go to
 * the spill store under pressure. PostgreSQL writes such files page by page, the last one shorter.
 */
import { pageSize } from '../../engine/limits.ts';
import type { PageStore } from '../pages/page-store.ts';
import type { Relation } from '../pages/rel-size-cache.ts';

export class ScratchFile {
  readonly #pages: PageStore;
  readonly #relation: Relation;
  readonly #page = new Uint8Array(pageSize);
  #size = 0;

  constructor(pages: PageStore) {
    this.#pages = pages;
    this.#relation = pages.relations.scratch();
    pages.create(this.#relation);
  }

  get size(): number {
    return this.#size;
  }

  read(position: number, target: Uint8Array, offset: number, length: number): number {
    const count = Math.max(0, Math.min(length, this.#size - position));
    return this.#pages.read(this.#relation, position, count, target, offset);
  }

  write(position: number, source: Uint8Array, offset: number, length: number): void {
    for (let done = 0; done < length; ) {
      const inPage = (position + done) % pageSize;
      const take = Math.min(length - done, pageSize - inPage);
      const pageAt = position + done - inPage;
      if (take === pageSize) {
        this.#pages.write(this.#relation, pageAt, source, offset + done, pageSize);
      } else {
        this.#page.fill(0);
        this.#pages.read(this.#relation, pageAt, pageSize, this.#page, 0);
        this.#page.set(source.subarray(offset + done, offset + done + take), inPage);
        this.#pages.write(this.#relation, pageAt, this.#page, 0, pageSize);
      }
      done += take;
    }
    this.#size = Math.max(this.#size, position + length);
  }

  truncate(size: number): void {
    const blocks = Math.ceil(size / pageSize);
    const inPage = size % pageSize;
    if (size < this.#size && inPage !== 0) this.#zeroFrom(size - inPage, inPage);
    this.#pages.truncate(this.#relation, blocks);
    this.#size = size;
  }

  remove(): void {
    this.#pages.remove(this.#relation);
    this.#pages.relations.forgetScratch(this.#relation);
    this.#size = 0;
  }

  #zeroFrom(pageAt: number, inPage: number): void {
    this.#pages.read(this.#relation, pageAt, pageSize, this.#page, 0);
    this.#page.fill(0, inPage);
    this.#pages.write(this.#relation, pageAt, this.#page, 0, pageSize);
  }
}
