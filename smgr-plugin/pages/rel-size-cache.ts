/**
 * R2. Which relation forks exist and how large they are, as this compute sees it.
 *
 * Called by the file system for look-ups, sizes, creation, truncation and removal, and by pages/page-store.ts. A primary is the only writer
 * of its timeline: what it has not changed is as it was at boot, and what it has changed it knows. So each database is listed once, the first
 * time that something is not known, and never asked for again; extension with zero pages and truncation, of which the pageserver may
 * not know yet or ever, simply are the newer truth.
 *
 * Invariants
 * - `Relation` objects are unique by (db, rel, fork) and their `id` is dense
 * - once known, `size` changes only through this compute
 * - an unlogged relation (its init fork exists) is `localOnly` in its other forks; after boot its main fork is a copy of its init fork
 */
import { relSegmentBlocks } from '../../engine/limits.ts';
import { type ForkNumber, initFork, mainFork, type RelTag } from '../../engine/model/rel.ts';
import type { PrewarmPages } from '../../engine/services.ts';
import type { DatabaseFolder } from '../vfs/path.ts';

/** Not known yet: the database has not been listed. */
const unknown = -1;

export class Relation implements RelTag {
  readonly id: number;
  readonly spc: number;
  readonly db: number;
  readonly rel: number;
  readonly fork: ForkNumber;
  /** In blocks; null: does not exist; -1: not known. */
  size: number | null;
  /** Files of 1 GB that exist, the last of which may be empty. */
  segments = 1;
  /** Exists only in this compute: unlogged, temporary. */
  localOnly: boolean;
  /** Pages of this relation are not older than this, whatever their own LSN says. */
  floorLsn = 0;
  /** The newest LSN that a page of this relation was written with since boot; 0: none was. */
  writtenLsn = 0;
  /** Created since boot. */
  created = false;

  // Read-ahead, pages/prefetch.ts
  nextBlock = -1;
  runBlocks = 0;

  constructor(id: number, tag: RelTag, size: number | null, localOnly: boolean) {
    this.id = id;
    this.spc = tag.spc;
    this.db = tag.db;
    this.rel = tag.rel;
    this.fork = tag.fork;
    this.size = size;
    this.localOnly = localOnly;
  }

  get exists(): boolean {
    return this.size !== null && this.size !== unknown;
  }

  /** Known to exist when called. */
  get blocks(): number {
    return this.size ?? 0;
  }

  segmentBlocks(segment: number): number {
    return Math.max(0, Math.min(relSegmentBlocks, this.blocks - segment * relSegmentBlocks));
  }

  setSize(size: number | null): void {
    this.size = size;
    this.segments = size === null ? 0 : Math.max(this.segments, segmentCount(size));
  }
}

/** Lists a database's relations: rel, fork, size as consecutive numbers. */
export type ListRelations = (folder: DatabaseFolder) => Uint32Array;

export class RelationTable {
  readonly #list: ListRelations;
  readonly #all: Relation[] = [];
  /** By database, then by relation number * 4 + fork. */
  readonly #databases = new Map<number, Map<number, Relation>>();
  readonly #listed = new Set<number>();
  /** By file name: these never leave this compute and are few. */
  readonly #temporary = new Map<number, Map<string, Relation>>();
  readonly #freeScratch: Relation[] = [];
  readonly #copyInitFork: (from: Relation, to: Relation) => void;

  constructor(list: ListRelations, copyInitFork: (from: Relation, to: Relation) => void) {
    this.#list = list;
    this.#copyInitFork = copyInitFork;
  }

  byId(id: number): Relation {
    return this.#all[id]!;
  }

  /** What the basebackup says about sizes. */
  prewarm({ rel, relSize }: PrewarmPages): Relation {
    const relation = this.#get(rel);
    if (relation.size === unknown) setKnown(relation, relSize);
    return relation;
  }

  /** The relation fork, whether it exists or not; `exists` and `size` are known. */
  find(folder: DatabaseFolder, rel: number, fork: ForkNumber): Relation {
    const relation = this.#get({ spc: folder.spc, db: folder.db, rel, fork });
    if (relation.size === unknown) this.#learn(folder, relation);
    return relation;
  }

  /** A fork of a temporary relation, by its file name without a segment number. */
  findTemporary(folder: DatabaseFolder, name: string, rel: number, fork: ForkNumber): Relation {
    let byName = this.#temporary.get(folder.db);
    if (byName === undefined) {
      byName = new Map();
      this.#temporary.set(folder.db, byName);
    }
    let relation = byName.get(name);
    if (relation === undefined) {
      relation = this.#add({ spc: folder.spc, db: folder.db, rel, fork }, null, true);
      byName.set(name, relation);
    }
    return relation;
  }

  /** A relation of no database, for a temporary file. */
  scratch(): Relation {
    const again = this.#freeScratch.pop();
    return again ?? this.#add({ spc: 0, db: 0, rel: 0, fork: mainFork }, null, true);
  }

  /** Its number may be used again. */
  forgetScratch(relation: Relation): void {
    this.#freeScratch.push(relation);
  }

  /** Everything that exists in a database: relations with a name of their own first. */
  *list(folder: DatabaseFolder): Generator<{ relation: Relation; temporaryName: string | null }> {
    this.#ensureListed(folder);
    for (const relation of this.#databases.get(folder.db)?.values() ?? []) {
      if (relation.exists) yield { relation, temporaryName: null };
    }
    for (const [temporaryName, relation] of this.#temporary.get(folder.db) ?? []) {
      if (relation.exists) yield { relation, temporaryName };
    }
  }

  /** The file was created. A new init fork makes its relation's other forks local. Returns those that became so. */
  create(relation: Relation, lsn: number): Relation[] {
    relation.segments = 1;
    relation.setSize(0);
    relation.created = true;
    relation.floorLsn = Math.max(relation.floorLsn, lsn);
    if (relation.fork !== initFork || relation.localOnly) return [];
    const became: Relation[] = [];
    for (const fork of [0, 1, 2] as const) {
      const other = this.#get({ ...tagOf(relation), fork });
      if (!other.localOnly) became.push(other);
      other.localOnly = true;
    }
    return became;
  }

  /** A database created since boot has no relations elsewhere. */
  createDatabase(folder: DatabaseFolder): void {
    this.#listed.add(folder.db);
  }

  #learn(folder: DatabaseFolder, relation: Relation): void {
    this.#ensureListed(folder);
    if (relation.size === unknown) relation.size = null;
    if (relation.fork === initFork || relation.size !== null) return;
    const init = this.#get({ ...tagOf(relation), fork: initFork });
    if (!init.exists) return;
    // Unlogged, and not touched since boot: PostgreSQL would have reset it at start-up.
    relation.localOnly = true;
    if (relation.fork === mainFork) this.#copyInitFork(init, relation);
  }

  #ensureListed(folder: DatabaseFolder): void {
    if (this.#listed.has(folder.db)) return;
    const numbers = this.#list(folder);
    for (let i = 0; i < numbers.length; i += 3) {
      const fork = numbers[i + 1]! as ForkNumber;
      const relation = this.#get({ spc: folder.spc, db: folder.db, rel: numbers[i]!, fork });
      if (relation.size === unknown) setKnown(relation, numbers[i + 2]!);
    }
    this.#listed.add(folder.db);
  }

  #get(tag: RelTag): Relation {
    let relations = this.#databases.get(tag.db);
    if (relations === undefined) {
      relations = new Map();
      this.#databases.set(tag.db, relations);
    }
    const key = tag.rel * 4 + tag.fork;
    let relation = relations.get(key);
    if (relation === undefined) {
      relation = this.#add(tag, unknown, false);
      relations.set(key, relation);
    }
    return relation;
  }

  #add(tag: RelTag, size: number | null, localOnly: boolean): Relation {
    const relation = new Relation(this.#all.length, tag, size, localOnly);
    this.#all.push(relation);
    return relation;
  }
}

function setKnown(relation: Relation, size: number): void {
  relation.segments = 0;
  relation.setSize(size);
}

const segmentCount = (size: number): number => Math.max(1, Math.ceil(size / relSegmentBlocks));

const tagOf = ({ spc, db, rel, fork }: Relation): RelTag => ({ spc, db, rel, fork });
