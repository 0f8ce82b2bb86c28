/**
 * Every value at its (key, LSN) in plain maps: what a timeline must be equal to, without layers, ancestors or caches.
 *
 * A ValueSink for ingest, and a ValueReader at any LSN given something that redoes WAL records.
 */
import { applyPatches } from '../../engine/ingest/patch.ts';
import { type Key, type KeyPrefix, keyKind } from '../../engine/model/key.ts';
import { type Lsn, maxLsn } from '../../engine/model/lsn.ts';
import type { ForkNumber } from '../../engine/model/rel.ts';
import { isSelfContained, type ValueKind, valueKind } from '../../engine/model/value.ts';
import type { ValueReader, ValueSink, WalRedo } from '../../engine/services.ts';

interface Version {
  readonly lsn: Lsn;
  readonly kind: ValueKind;
  readonly bytes: Uint8Array;
}

export class ValueMap implements ValueSink {
  readonly #versions = new Map<KeyPrefix, Map<number, Version[]>>();
  #record: Uint8Array = new Uint8Array(0);

  addRecord(_lsn: Lsn, bytes: Uint8Array, start: number, length: number): number {
    this.#record = bytes.slice(start, start + length);
    return 0;
  }

  putRecord(prefix: KeyPrefix, block: number, lsn: Lsn, _handle: number, willInit: boolean): void {
    this.#put(prefix, block, {
      lsn,
      kind: willInit ? valueKind.recordWillInit : valueKind.record,
      bytes: this.#record,
    });
  }

  putImage(prefix: KeyPrefix, block: number, lsn: Lsn, image: Uint8Array): void {
    this.#put(prefix, block, { lsn, kind: valueKind.image, bytes: image.slice() });
  }

  putPatch(prefix: KeyPrefix, block: number, lsn: Lsn, patch: Uint8Array): void {
    this.#put(prefix, block, { lsn, kind: valueKind.patch, bytes: patch.slice() });
  }

  #put(prefix: KeyPrefix, block: number, version: Version): void {
    let blocks = this.#versions.get(prefix);
    if (blocks === undefined) {
      blocks = new Map();
      this.#versions.set(prefix, blocks);
    }
    const versions = blocks.get(block);
    if (versions === undefined) blocks.set(block, [version]);
    else versions.push(version);
  }

  keys(): Key[] {
    return [...this.#versions].flatMap(([prefix, blocks]) => [...blocks.keys()].map((block) => ({ prefix, block })));
  }

  versions(prefix: KeyPrefix, block: number): readonly Version[] {
    return this.#versions.get(prefix)?.get(block) ?? [];
  }

  /** Rebuilds values as of `lsn`. Without `redo` a key that needs a WAL record is an error. */
  reader(lsn: Lsn = maxLsn, redo: WalRedo | null = null): ValueReader {
    return { getImage: async (prefix, block) => this.#rebuild(prefix, block, lsn, redo) };
  }

  #rebuild(prefix: KeyPrefix, block: number, lsn: Lsn, redo: WalRedo | null): Uint8Array | null {
    const versions = this.versions(prefix, block).filter((version) => version.lsn <= lsn);
    if (versions.length === 0) return null;
    let from = versions.length - 1;
    while (from > 0 && !isSelfContained(versions[from]!.kind)) from--;
    let value: Uint8Array | null = null;
    for (let at = from; at < versions.length; ) {
      const { kind, bytes } = versions[at]!;
      if (kind === valueKind.image) {
        value = bytes;
        at++;
        continue;
      }
      const isPatch = kind === valueKind.patch || kind === valueKind.patchWillInit;
      let end = at + 1;
      while (
        end < versions.length &&
        (versions[end]!.kind === valueKind.patch) === isPatch &&
        versions[end]!.kind !== valueKind.image
      )
        end++;
      const run = versions.slice(at, end);
      const base = value !== null && value.length === 0 ? null : value;
      if (isPatch) {
        value = applyPatches(
          prefix,
          block,
          base,
          run.map((version) => version.bytes),
        );
      } else {
        if (redo === null || prefix.kind !== keyKind.rel) throw new Error(`key ${prefix}/${block} needs redo`);
        const rel = { spc: prefix.spc, db: prefix.db, rel: prefix.rel, fork: prefix.fork as ForkNumber };
        value = redo.redoPage({
          rel,
          block,
          base,
          lsns: run.map((version) => version.lsn),
          records: run.map((version) => version.bytes),
        });
      }
      at = end;
    }
    return value !== null && value.length === 0 ? null : value;
  }
}
