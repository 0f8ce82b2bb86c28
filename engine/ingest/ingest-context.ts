/**
 * What the handlers of the resource managers share: the state at the end of the WAL ingested so far, and the ways to change it.
 */
import {
  dbDirectoryKey,
  type KeyPrefix,
  keyKind,
  keyPrefix,
  relDirectoryKey,
  replicationOriginsKey,
  slruKind,
  twoPhaseDirectoryKey,
  twoPhaseKey,
} from '../model/key.ts';
import type { Lsn } from '../model/lsn.ts';
import type { ValueReader, ValueSink } from '../services.ts';
import { CheckpointState } from './checkpoint-state.ts';
import { directoryPatch, RelDirectory } from './rel-directory.ts';
import { noRel, RelSizes } from './rel-sizes.ts';
import { Slru } from './slru.ts';
import {
  type DatabaseEntry,
  decodeDatabases,
  decodeOrigins,
  decodePrepared,
  encodeDatabases,
  encodeOrigins,
  encodePrepared,
} from './small-directories.ts';

/** Patches on a relation directory before it is stored whole again: bounds the chain that a reader has to apply. */
const directoryPatchesMax = 128;
/** InvalidRepOriginId and DoNotReplicateId. */
const noOrigin = 0;
const doNotReplicate = 0xffff;
const tombstone = new Uint8Array(0);

export class IngestContext {
  readonly reader: ValueReader;
  readonly sink: ValueSink;
  readonly sizes: RelSizes;
  readonly checkpoint: CheckpointState;
  readonly clog: Slru;
  readonly multiOffsets: Slru;
  readonly multiMembers: Slru;
  #databases: DatabaseEntry[];
  #prepared: number[];
  readonly #origins: Map<number, Lsn>;
  readonly #directoryPatches = new Map<KeyPrefix, number>();

  private constructor(
    reader: ValueReader,
    sink: ValueSink,
    checkpoint: CheckpointState,
    slrus: [Slru, Slru, Slru],
    databases: DatabaseEntry[],
    prepared: number[],
    origins: Map<number, Lsn>,
  ) {
    this.reader = reader;
    this.sink = sink;
    this.sizes = new RelSizes(reader, sink);
    this.checkpoint = checkpoint;
    [this.clog, this.multiOffsets, this.multiMembers] = slrus;
    this.#databases = databases;
    this.#prepared = prepared;
    this.#origins = origins;
  }

  static async open(reader: ValueReader, sink: ValueSink, checkpointImage: Uint8Array): Promise<IngestContext> {
    return new IngestContext(
      reader,
      sink,
      new CheckpointState(checkpointImage),
      [
        await Slru.open(slruKind.clog, reader, sink),
        await Slru.open(slruKind.multixactOffsets, reader, sink),
        await Slru.open(slruKind.multixactMembers, reader, sink),
      ],
      decodeDatabases(await reader.getImage(dbDirectoryKey.prefix, dbDirectoryKey.block)),
      decodePrepared(await reader.getImage(twoPhaseDirectoryKey.prefix, twoPhaseDirectoryKey.block)),
      decodeOrigins(await reader.getImage(replicationOriginsKey.prefix, replicationOriginsKey.block)),
    );
  }

  // Relations

  /** Makes the fork exist with no blocks. The caller has loaded its size. */
  createRel(prefix: KeyPrefix, lsn: Lsn): void | Promise<void> {
    if (this.sizes.get(prefix) !== noRel) return;
    this.sizes.set(prefix, lsn, 0);
    return this.#directoryChange(true, prefix, lsn);
  }

  async dropRel(spc: number, db: number, rel: number, lsn: Lsn): Promise<void> {
    for (let fork = 0; fork <= 3; fork++) {
      const prefix = keyPrefix(keyKind.rel, spc, db, rel, fork);
      if ((await this.sizes.load(prefix)) === noRel) continue;
      this.sizes.drop(prefix, lsn);
      await this.#directoryChange(false, prefix, lsn);
    }
  }

  #directoryChange(add: boolean, rel: KeyPrefix, lsn: Lsn): void | Promise<void> {
    const key = relDirectoryKey(rel.spc, rel.db);
    const count = (this.#directoryPatches.get(key.prefix) ?? 0) + 1;
    this.sink.putPatch(key.prefix, key.block, lsn, directoryPatch(add, rel.rel, rel.fork));
    this.#directoryPatches.set(key.prefix, count % directoryPatchesMax);
    if (count < directoryPatchesMax) return;
    return this.reader.getImage(key.prefix, key.block).then((image) => {
      if (image !== null) this.sink.putImage(key.prefix, key.block, lsn, image);
    });
  }

  async listRels(spc: number, db: number): Promise<KeyPrefix[]> {
    const key = relDirectoryKey(spc, db);
    const directory = RelDirectory.decode(await this.reader.getImage(key.prefix, key.block));
    return directory.list().map(({ rel, fork }) => keyPrefix(keyKind.rel, spc, db, rel, fork));
  }

  // Databases

  get databases(): readonly DatabaseEntry[] {
    return this.#databases;
  }

  createDatabase(spc: number, db: number, lsn: Lsn): void {
    if (this.#databases.some((entry) => entry.spc === spc && entry.db === db)) return;
    this.#storeDatabases([...this.#databases, { spc, db }], lsn);
  }

  async dropDatabase(spc: number, db: number, lsn: Lsn): Promise<void> {
    for (const prefix of await this.listRels(spc, db)) {
      await this.sizes.load(prefix);
      this.sizes.drop(prefix, lsn);
    }
    const directory = relDirectoryKey(spc, db);
    this.sink.putImage(directory.prefix, directory.block, lsn, tombstone);
    this.sink.putImage(directory.prefix, 0, lsn, tombstone);
    this.#storeDatabases(
      this.#databases.filter((entry) => entry.spc !== spc || entry.db !== db),
      lsn,
    );
  }

  #storeDatabases(databases: DatabaseEntry[], lsn: Lsn): void {
    this.#databases = databases;
    this.sink.putImage(dbDirectoryKey.prefix, dbDirectoryKey.block, lsn, encodeDatabases(databases));
  }

  // Prepared transactions

  addPrepared(fullXid: number, state: Uint8Array, lsn: Lsn): void {
    const key = twoPhaseKey(fullXid);
    this.sink.putImage(key.prefix, key.block, lsn, state);
    this.#storePrepared([...this.#prepared.filter((xid) => xid !== fullXid), fullXid], lsn);
  }

  removePrepared(fullXid: number, lsn: Lsn): void {
    const key = twoPhaseKey(fullXid);
    this.sink.putImage(key.prefix, key.block, lsn, tombstone);
    this.#storePrepared(
      this.#prepared.filter((xid) => xid !== fullXid),
      lsn,
    );
  }

  #storePrepared(xids: number[], lsn: Lsn): void {
    this.#prepared = xids;
    this.sink.putImage(twoPhaseDirectoryKey.prefix, twoPhaseDirectoryKey.block, lsn, encodePrepared(xids));
  }

  // Replication origins

  /** Progress made: never back, as in PostgreSQL's redo. */
  advanceOrigin(origin: number, remoteLsn: Lsn, lsn: Lsn): void {
    if (origin === noOrigin || origin === doNotReplicate || remoteLsn <= (this.#origins.get(origin) ?? 0)) return;
    this.setOrigin(origin, remoteLsn, lsn);
  }

  setOrigin(origin: number, remoteLsn: Lsn, lsn: Lsn): void {
    this.#origins.set(origin, remoteLsn);
    this.#storeOrigins(lsn);
  }

  dropOrigin(origin: number, lsn: Lsn): void {
    if (this.#origins.delete(origin)) this.#storeOrigins(lsn);
  }

  #storeOrigins(lsn: Lsn): void {
    this.sink.putImage(replicationOriginsKey.prefix, replicationOriginsKey.block, lsn, encodeOrigins(this.#origins));
  }
}
