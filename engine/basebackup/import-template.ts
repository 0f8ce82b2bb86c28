/**
 * A template's files as values at its LSN: what the first timeline of a tenant is made of. (As Neon's import_timeline_from_postgres_datadir.)
 *
 * Relations become page images and sizes; pages of zeros are left out, since a missing page reads as zeros.
 */
import { PageliteError } from '../errors.ts';
import { clogValueBytes } from '../ingest/patch.ts';
import { RelDirectory } from '../ingest/rel-directory.ts';
import { encodeSize } from '../ingest/rel-sizes.ts';
import { allSlrus } from '../ingest/slru.ts';
import { type DatabaseEntry, encodeDatabases, encodePrepared, encodeSegments } from '../ingest/small-directories.ts';
import { pageSize, relSegmentBlocks } from '../limits.ts';
import {
  checkpointKey,
  controlFileKey,
  dbDirectoryKey,
  type Key,
  type KeyPrefix,
  relDirectoryKey,
  relMapKey,
  relPrefix,
  type SlruKind,
  sizeBlock,
  slruDirectoryKey,
  slruKind,
  slruPrefix,
  staticFilesKey,
  twoPhaseDirectoryKey,
} from '../model/key.ts';
import type { RelTag } from '../model/rel.ts';
import type { DataFile, TenantTemplate, ValueSink } from '../services.ts';
import { checkpointOf } from './control-data.ts';
import { meaningOfPath } from './data-directory-paths.ts';
import { encodeFiles } from './data-files.ts';

interface Fork {
  readonly rel: RelTag;
  readonly segments: Map<number, Uint8Array>;
}

export function importTemplate(template: TenantTemplate, sink: ValueSink): void {
  const { lsn } = template;
  const put = (key: Key, image: Uint8Array) => sink.putImage(key.prefix, key.block, lsn, image);
  const found = new Map<KeyPrefix, Fork>();
  const databases = new Map<number, DatabaseEntry>();
  const config: DataFile[] = [];
  const slrus = new Map<SlruKind, number[]>(allSlrus.map((kind) => [kind, []]));
  let control: Uint8Array | null = null;

  for (const { path, bytes } of template.files) {
    if (bytes === null) continue;
    const meaning = meaningOfPath(path);
    if (meaning?.kind === 'relation') {
      const { rel, segment } = meaning;
      const prefix = relPrefix(rel);
      const fork = found.get(prefix) ?? { rel, segments: new Map() };
      found.set(prefix, fork);
      fork.segments.set(segment, bytes);
    } else if (meaning?.kind === 'relationMap') {
      const { spc, db } = meaning.database;
      databases.set(db, meaning.database);
      put(relMapKey(spc, db), bytes);
    } else if (meaning?.kind === 'slru') {
      slrus.get(meaning.slru)!.push(meaning.segment);
      importSlruSegment(meaning.slru, meaning.segment, bytes, template, sink);
    } else if (meaning?.kind === 'control') {
      control = bytes;
    } else if (meaning?.kind === 'configuration') {
      config.push({ path, bytes });
    }
  }
  if (control === null) throw new PageliteError('invalid', 'the template has no global/pg_control');

  const directories = new Map<DatabaseEntry, RelDirectory>();
  for (const fork of found.values()) {
    const entry = databases.get(fork.rel.db);
    if (entry === undefined)
      throw new PageliteError('invalid', `the template has no relation map of database ${fork.rel.db}`);
    let directory = directories.get(entry);
    if (directory === undefined) {
      directory = new RelDirectory();
      directories.set(entry, directory);
    }
    directory.add(fork.rel.rel, fork.rel.fork);
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

function importFork(fork: Fork, { lsn }: TenantTemplate, sink: ValueSink): void {
  const prefix = relPrefix(fork.rel);
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
