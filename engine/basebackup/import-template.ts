/**
 * A template's files as values at its LSN: what the first timeline of a tenant is made of. (As Neon's import_timeline_from_postgres_datadir.)
 *
 * Relations become page images and sizes; pages of zeros are left out, since a missing page reads as zeros.
 */
import { PageliteError } from '../errors.ts';
import { clogValueBytes } from '../ingest/patch.ts';
import { RelDirectory } from '../ingest/rel-directory.ts';
import { encodeSize } from '../ingest/rel-sizes.ts';
import { allSlrus, slruFolders } from '../ingest/slru.ts';
import { type DatabaseEntry, encodeDatabases, encodePrepared, encodeSegments } from '../ingest/small-directories.ts';
import { pageSize, relSegmentBlocks } from '../limits.ts';
import {
  checkpointKey,
  controlFileKey,
  dbDirectoryKey,
  type Key,
  keyKind,
  keyPrefix,
  relDirectoryKey,
  relMapKey,
  type SlruKind,
  sizeBlock,
  slruDirectoryKey,
  slruKind,
  slruPrefix,
  staticFilesKey,
  twoPhaseDirectoryKey,
} from '../model/key.ts';
import { defaultTablespace, globalTablespace } from '../model/rel.ts';
import type { DataFile, TenantTemplate, ValueSink } from '../services.ts';
import { checkpointOf } from './control-data.ts';
import { encodeFiles } from './data-files.ts';

const relFile = /^(?:base\/(\d+)|global)\/(\d+)(_fsm|_vm|_init)?(?:\.(\d+))?$/;
const mapFile = /^(?:base\/(\d+)|global)\/pg_filenode\.map$/;
const configFiles = new Set(['postgresql.conf', 'postgresql.auto.conf', 'pg_hba.conf', 'pg_ident.conf']);
const forks: Record<string, number> = { '': 0, _fsm: 1, _vm: 2, _init: 3 };

interface Fork {
  readonly db: number;
  readonly spc: number;
  readonly rel: number;
  readonly fork: number;
  readonly segments: Map<number, Uint8Array>;
}

export function importTemplate(template: TenantTemplate, sink: ValueSink): void {
  const { lsn } = template;
  const put = (key: Key, image: Uint8Array) => sink.putImage(key.prefix, key.block, lsn, image);
  const found = new Map<string, Fork>();
  const databases = new Map<number, DatabaseEntry>();
  const config: DataFile[] = [];
  const slrus = new Map<SlruKind, number[]>(allSlrus.map((kind) => [kind, []]));
  let control: Uint8Array | null = null;

  for (const { path, bytes } of template.files) {
    if (bytes === null) continue;
    const rel = relFile.exec(path);
    if (rel) {
      collectFork(found, rel, bytes);
      continue;
    }
    const map = mapFile.exec(path);
    if (map) {
      const entry = place(map[1]);
      databases.set(entry.db, entry);
      put(relMapKey(entry.spc, entry.db), bytes);
      continue;
    }
    const kind = allSlrus.find((one) => path.startsWith(`${slruFolders[one]}/`));
    if (kind !== undefined) {
      const segment = Number.parseInt(path.slice(path.lastIndexOf('/') + 1), 16);
      slrus.get(kind)!.push(segment);
      importSlruSegment(kind, segment, bytes, template, sink);
    } else if (path === 'global/pg_control') {
      control = bytes;
    } else if (configFiles.has(path)) {
      config.push({ path, bytes });
    }
  }
  if (control === null) throw new PageliteError('invalid', 'the template has no global/pg_control');

  const directories = new Map<DatabaseEntry, RelDirectory>();
  for (const fork of found.values()) {
    const entry = databases.get(fork.db);
    if (entry === undefined)
      throw new PageliteError('invalid', `the template has no relation map of database ${fork.db}`);
    let directory = directories.get(entry);
    if (directory === undefined) {
      directory = new RelDirectory();
      directories.set(entry, directory);
    }
    directory.add(fork.rel, fork.fork);
    importFork(fork, template, sink);
  }
  for (const [entry, directory] of directories) put(relDirectoryKey(entry.spc, entry.db), directory.encode());
  put(dbDirectoryKey, encodeDatabases([...databases.values()]));
  for (const [kind, segments] of slrus) put(slruDirectoryKey(kind), encodeSegments(segments));
  put(twoPhaseDirectoryKey, encodePrepared([]));
  put(controlFileKey, control);
  put(checkpointKey, checkpointOf(control));
  put(staticFilesKey, encodeFiles(config));
}

function place(db: string | undefined): DatabaseEntry {
  return db === undefined ? { spc: globalTablespace, db: 0 } : { spc: defaultTablespace, db: Number(db) };
}

function collectFork(found: Map<string, Fork>, match: RegExpExecArray, bytes: Uint8Array): void {
  const name = `${match[1] ?? ''}/${match[2]}${match[3] ?? ''}`;
  let fork = found.get(name);
  if (fork === undefined) {
    fork = { ...place(match[1]), rel: Number(match[2]), fork: forks[match[3] ?? '']!, segments: new Map() };
    found.set(name, fork);
  }
  fork.segments.set(Number(match[4] ?? 0), bytes);
}

function importFork(fork: Fork, { lsn }: TenantTemplate, sink: ValueSink): void {
  const prefix = keyPrefix(keyKind.rel, fork.spc, fork.db, fork.rel, fork.fork);
  let size = 0;
  for (const [segment, bytes] of fork.segments) {
    if (bytes.length % pageSize !== 0)
      throw new PageliteError('invalid', `relation ${prefix} is no whole number of pages`);
    const first = segment * relSegmentBlocks;
    for (let at = 0; at < bytes.length; at += pageSize) {
      const page = bytes.subarray(at, at + pageSize);
      if (page.some((byte) => byte !== 0)) sink.putImage(prefix, first + at / pageSize, lsn, page);
    }
    size = Math.max(size, first + bytes.length / pageSize);
  }
  sink.putImage(prefix, sizeBlock, lsn, encodeSize(size));
}

function importSlruSegment(
  kind: SlruKind,
  segment: number,
  bytes: Uint8Array,
  { lsn }: TenantTemplate,
  sink: ValueSink,
): void {
  const prefix = slruPrefix(kind, segment);
  const blocks = Math.floor(bytes.length / pageSize);
  for (let block = 0; block < blocks; block++) {
    const page = new Uint8Array(kind === slruKind.clog ? clogValueBytes : pageSize);
    page.set(bytes.subarray(block * pageSize, (block + 1) * pageSize));
    sink.putImage(prefix, block, lsn, page);
  }
  sink.putImage(prefix, sizeBlock, lsn, encodeSize(blocks));
}
