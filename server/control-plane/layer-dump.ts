/** Reads a layer file value by value, from a running pageserver or from a path, a run of blocks at a time. */
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { patchType } from '../../engine/ingest/patch.ts';
import { BlockCache } from '../../engine/layers/block-cache.ts';
import type { DataBlock } from '../../engine/layers/data-block.ts';
import { LayerFile } from '../../engine/layers/layer-file.ts';
import { headerBytes } from '../../engine/layers/layer-format.ts';
import { type LayerDesc, parseLayerFile, parseLayerName } from '../../engine/layers/layer-name.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatKey } from '../../engine/model/key.ts';
import { formatLsn, type Lsn } from '../../engine/model/lsn.ts';
import { type ValueKind, valueKind } from '../../engine/model/value.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { rmgr } from '../../engine/wal/wal-record.ts';

export interface OpenLayer {
  readonly file: LayerFile;
  readonly desc: LayerDesc;
  readonly size: number;
}

export interface DumpedValue {
  /** 36 hex digits. */
  readonly key: string;
  readonly lsn: string;
  readonly kind: string;
  readonly bytes: number;
  /** Resource manager and info of a WAL record, type of a patch. */
  readonly about: string | null;
}

export type DumpPart =
  | { readonly kind: 'block'; readonly index: number; readonly entries: number; readonly bytes: number }
  | { readonly kind: 'value'; readonly value: DumpedValue }
  | { readonly kind: 'damaged'; readonly problem: string };

/** What of a pageserver is read. */
export interface LayerContent {
  readLayer(id: TenantTimelineId, name: string, range: { start: number; end: number }): Promise<Uint8Array>;
}

export function storedLayer(source: LayerContent, id: TenantTimelineId, name: string, size: number): OpenLayer {
  const get: ObjectStore['get'] = async (_key, range) => ({
    bytes: await source.readLayer(id, name, range ?? { start: 0, end: size }),
    version: '',
  });
  return openLayer(id, name, size, get);
}

/** A file as a pageserver stores it, under its name. */
export async function localLayer(path: string): Promise<OpenLayer> {
  const name = parseLayerFile(basename(path))?.name;
  if (name === undefined) throw new PageliteError('invalid', `${path} has not the name of a layer file`);
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    throw new PageliteError(error.code === 'ENOENT' ? 'notFound' : 'unavailable', messageOf(error), { file: path });
  });
  const { size } = await file.stat();
  const get: ObjectStore['get'] = async (_key, range) => {
    const { start, end } = range ?? { start: 0, end: size };
    const bytes = new Uint8Array(Math.max(0, Math.min(end, size) - start));
    await file.read(bytes, 0, bytes.length, start);
    return { bytes, version: '' };
  };
  // Whose it is stands in its header.
  const header = Buffer.from((await get('', { start: 0, end: Math.min(size, headerBytes) }))!.bytes);
  const hex = (from: number) =>
    header
      .subarray(from, from + 16)
      .toString('hex')
      .padEnd(32, '0');
  return openLayer({ tenantId: tenantId(hex(16)), timelineId: timelineId(hex(32)) }, name, size, get);
}

function openLayer(id: TenantTimelineId, name: string, size: number, get: ObjectStore['get']): OpenLayer {
  const desc = parseLayerName(name);
  if (desc === null) throw new PageliteError('invalid', `${name} is not the name of a layer`);
  const file = new LayerFile(id, desc, '', size, { get } as ObjectStore, new BlockCache(1));
  return { file, desc, size };
}

/** Damaged blocks are told, and the rest goes on. `key`: values of one key only. Throws `corrupt` if header or index are damaged. */
export async function* dumpLayer({ file }: OpenLayer, key: string | null): AsyncGenerator<DumpPart> {
  const { blockCount, offsets } = await file.open();
  for (let index = 0; index < blockCount; index++) {
    let block: DataBlock;
    try {
      block = (await file.holdBlocks(index, index)).blocks[0]!;
    } catch (error) {
      if (!isPageliteError(error, 'corrupt')) throw error;
      yield { kind: 'damaged', problem: error.message };
      continue;
    }
    const values = [...valuesOf(block, key)];
    if (key !== null && values.length === 0) continue;
    yield { kind: 'block', index, entries: block.entryCount, bytes: offsets[index + 1]! - offsets[index]! };
    for (const value of values) yield { kind: 'value', value };
  }
}

const kindNames = Object.fromEntries(Object.entries(valueKind).map(([name, kind]) => [kind, name]));
const rmgrNames = Object.fromEntries(Object.entries(rmgr).map(([name, id]) => [id, name]));
const patchNames = Object.fromEntries(Object.entries(patchType).map(([name, type]) => [type, name]));

function* valuesOf(block: DataBlock, key: string | null): Generator<DumpedValue> {
  for (let p = 0; p < block.prefixes.length; p++) {
    for (let i = block.prefixFirst[p]!; i < block.prefixFirst[p + 1]!; i++) {
      const text = formatKey(block.prefixes[p]!, block.blocks[i]!);
      if (key !== null && text !== key) continue;
      const kind = block.kinds[i] as ValueKind;
      const bytes = block.value(i);
      yield {
        key: text,
        lsn: formatLsn(block.lsn(i) as Lsn),
        kind: bytes.length === 0 && kind === valueKind.image ? 'tombstone' : kindNames[kind]!,
        bytes: bytes.length,
        about: aboutOf(kind, bytes),
      };
    }
  }
}

function aboutOf(kind: ValueKind, bytes: Uint8Array): string | null {
  if (kind === valueKind.image || bytes.length === 0) return null;
  if (kind === valueKind.patch || kind === valueKind.patchWillInit) return patchNames[bytes[0]!] ?? `patch ${bytes[0]}`;
  if (bytes.length < 24) return 'cut short';
  // xl_info, xl_rmid (access/xlogrecord.h).
  return `${rmgrNames[bytes[17]!] ?? `rmgr ${bytes[17]}`} info ${(bytes[16]! & 0xf0).toString(16).padStart(2, '0')}`;
}
