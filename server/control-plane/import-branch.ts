/**
 * A PGlite data directory or its tarball as a branch: the same for the command line and the library.
 *
 *   source -> a directory that was shut down (import/prepare-directory.ts) -> image layers (engine/import) -> the pageserver, as a push -> a name
 *
 * Invariants
 * - the timeline is there when all of it is, and has its name right after; whatever fails or is cut off before leaves no timeline
 * - what a killed one leaves, here and at the pageserver, the next one removes
 * - the repository is locked only while the name is given: other commands go on meanwhile
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { must } from '../../engine/assert.ts';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { importDataDirectory } from '../../engine/import/import-data-directory.ts';
import { newTimelineId, type TenantId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { type IndexPart, layerKey } from '../../engine/timeline/index-part.ts';
import { type ImportPeer, pushTimeline, type TransferProgress } from '../../engine/transfer/push-timeline.ts';
import { FolderDirectory } from '../import/folder-directory.ts';
import { prepareDirectory } from '../import/prepare-directory.ts';
import { sweepWorkspaces, Workspace } from '../import/workspace.ts';
import { DiskObjectStore } from '../object-store/disk.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import { checkNewBranchName, nameBranch, nameOfTimeline } from './branches.ts';
import type { Repository } from './repository.ts';
import type { TransferStorage } from './storage-api.ts';
import { changeNames } from './stored-names.ts';

export interface ImportBranchOptions {
  /** A folder, a file, or a stream of a tarball. */
  readonly source: string | Readable;
  readonly tenantId: TenantId;
  readonly name: string;
  readonly timelineId?: TimelineId | undefined;
  readonly progress: (progress: TransferProgress) => void;
  readonly signal?: AbortSignal;
}

export interface ImportedBranch {
  readonly id: TenantTimelineId;
  /** Where the branch begins: the shutdown checkpoint of the data directory. */
  readonly lsn: Lsn;
  /** Of the data directory that is in the branch. */
  readonly bytes: number;
  readonly layerBytes: number;
  readonly layers: number;
  /** It had not been shut down; PostgreSQL recovered a copy. */
  readonly wasRecovered: boolean;
  /** What the user should know: things that are not as they were. */
  readonly warnings: readonly string[];
}

export async function importBranch(
  storage: TransferStorage,
  repository: Repository,
  options: ImportBranchOptions,
): Promise<ImportedBranch> {
  const { tenantId, name, timelineId = newTimelineId(nodeRandom) } = options;
  const config = repository.readConfig();
  checkNewBranchName(config, tenantId, name);
  const id = { tenantId, timelineId };
  if ((await storage.listTimelines(tenantId)).some((known) => known.timelineId === timelineId)) {
    throw new PageliteError('invalid', `timeline ${timelineId} exists. Choose another id`, { ...id });
  }
  const parent = join(repository.dir, 'imports');
  await sweepWorkspaces(parent, storage, (other) => nameOfTimeline(config, other) !== null);
  const workspace = await Workspace.create(parent);
  try {
    const imported = await bring(storage, workspace, id, options);
    await giveName(storage, repository, id, name);
    return imported;
  } finally {
    await workspace.remove();
  }
}

async function bring(
  storage: TransferStorage,
  workspace: Workspace,
  id: TenantTimelineId,
  { source, progress, signal }: ImportBranchOptions,
): Promise<ImportedBranch> {
  const stoppable = signal ? { signal } : {};
  const prepared = await prepareDirectory({ source, copyDir: workspace.dataDir, progress, ...stoppable });
  const directory = new FolderDirectory(prepared.dir, prepared.name, prepared.found.files);
  const layers = await DiskObjectStore.open(workspace.layersDir);
  const imported = await importDataDirectory({
    directory,
    id,
    store: withRoom(layers),
    progress,
    ...stoppable,
  }).finally(() => directory.close());
  await prepared.checkUnchanged();
  if (prepared.isCopy) await rm(workspace.dataDir, { recursive: true, force: true });
  await send(storage, workspace, id, imported.part, layers, progress, signal);
  const { part, bytes, unloggedRelations, droppedMapPages, unfinishedDatabases, settingsLeftOut } = imported;
  const warnings = [
    ...(unloggedRelations > 0
      ? [`${unloggedRelations} unlogged relations begin empty: an endpoint starts as a server does after a crash`]
      : []),
    ...(droppedMapPages > 0
      ? [`${droppedMapPages} damaged pages of free space or visibility maps are left out: PostgreSQL makes them again`]
      : []),
    ...unfinishedDatabases.map((path) => `${path} is left out: it has no pg_filenode.map, so it is no database`),
    ...settingsLeftOut.map((setting) => `${setting} is a comment now: it names files that an endpoint does not have`),
  ];
  return {
    id,
    lsn: part.startLsn,
    bytes,
    layerBytes: part.layers.reduce((sum, { size }) => sum + size, 0),
    layers: part.layers.length,
    wasRecovered: prepared.wasRecovered,
    warnings,
  };
}

async function send(
  storage: TransferStorage,
  workspace: Workspace,
  id: TenantTimelineId,
  part: IndexPart,
  layers: ObjectStore,
  progress: ImportBranchOptions['progress'],
  signal: AbortSignal | undefined,
): Promise<void> {
  const { importPeer } = storage;
  let importId: string | null = null;
  const entries = new Map(part.layers.map((entry) => [entry.name, entry]));
  const peer: ImportPeer = {
    begin: async (target, manifest, stop) => {
      const state = await importPeer.begin(target, manifest, stop);
      if (state.kind === 'open') {
        importId = state.importId;
        workspace.noteImport({ id, importId });
      }
      return state;
    },
    put: (target, ...rest) => importPeer.put(target, ...rest),
    commit: (target, ...rest) => importPeer.commit(target, ...rest),
  };
  try {
    await pushTimeline({
      source: {
        readLayer: async (_, name, range) =>
          (await layers.get(layerKey(id, must(entries.get(name))), range))?.bytes ?? null,
      },
      id,
      part,
      peer,
      target: id,
      base: null,
      clock: nodeClock,
      progress: (told) => progress({ ...told, text: told.text === 'Sending changes' ? 'Sending' : 'Checking layers' }),
      ...(signal && { signal }),
    });
  } catch (error) {
    // If it cannot be told, the next import does, or the pageserver gives up by itself.
    if (importId !== null) await importPeer.abort(id, importId).catch((failure) => void messageOf(failure));
    throw error;
  }
}

/** Somebody may have taken the name meanwhile. */
async function giveName(
  storage: TransferStorage,
  repository: Repository,
  id: TenantTimelineId,
  name: string,
): Promise<void> {
  try {
    await repository.exclusively(() =>
      changeNames(storage, repository, id.tenantId, (config) => nameBranch(config, name, id)),
    );
  } catch (error) {
    await storage.deleteTimeline(id);
    throw error;
  }
}

/** A full disk is told with what it was to hold. */
function withRoom(store: ObjectStore): Pick<ObjectStore, 'put'> {
  return {
    put: async (key, bytes) => {
      try {
        return await store.put(key, bytes);
      } catch (error) {
        const code = (error as NodeJS.ErrnoException).code ?? ((error as Error).cause as NodeJS.ErrnoException)?.code;
        if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error;
        throw new PageliteError(
          'unavailable',
          'there is no room left for the layers of the import',
          {},
          { cause: error },
        );
      }
    },
  };
}
