/**
 * A folder in the repository for what an import or an export needs beside its source: an extracted tarball, layers on their way.
 *
 *   .pagelite/imports/<random>/owner.pid     held by the command, so that another one knows what was left behind
 *   .pagelite/imports/<random>/import.json   the import under way at the pageserver, once there is one
 *   .pagelite/imports/<random>/data/         the data directory, where it is a copy
 *   .pagelite/imports/<random>/layers/       the layers
 *
 * In the repository and not in /tmp, since that is where there must be room for the database anyway.
 *
 * Invariant: a workspace whose owner is gone is removed by the next command, after what it had begun at the pageserver.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isPageliteError } from '../../engine/errors.ts';
import { type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { TransferStorage } from '../control-plane/storage-api.ts';
import { claimPidFile, type PidFile, runningPid } from '../process/pid-file.ts';

export interface BegunImport {
  readonly id: TenantTimelineId;
  readonly importId: string;
}

const ownerFile = 'owner.pid';
const importFile = 'import.json';

export class Workspace {
  readonly dir: string;
  readonly #lock: PidFile;

  private constructor(dir: string, lock: PidFile) {
    this.dir = dir;
    this.#lock = lock;
  }

  /** `parent` is made if need be. */
  static async create(parent: string): Promise<Workspace> {
    await mkdir(parent, { recursive: true });
    const dir = await mkdtemp(join(parent, 'w-'));
    return new Workspace(dir, claimPidFile(join(dir, ownerFile)));
  }

  get dataDir(): string {
    return join(this.dir, 'data');
  }

  get layersDir(): string {
    return join(this.dir, 'layers');
  }

  /** To be given up if this process dies. */
  noteImport({ id, importId }: BegunImport): void {
    writeFileSync(join(this.dir, importFile), JSON.stringify({ ...id, importId }));
  }

  async remove(): Promise<void> {
    await rm(this.dir, { recursive: true, force: true });
    this.#lock.release();
  }
}

/** Removes what commands that were killed have left, here and at the pageserver. `isNamed`: somebody has the timeline. */
export async function sweepWorkspaces(
  parent: string,
  storage: TransferStorage,
  isNamed: (id: TenantTimelineId) => boolean,
): Promise<void> {
  if (!existsSync(parent)) return;
  for (const name of await readdir(parent)) {
    const dir = join(parent, name);
    // One without an owner is just being made, or was cut off then: it has nothing in it but perhaps the owner's file.
    if (!existsSync(join(dir, ownerFile)) || runningPid(join(dir, ownerFile)) !== null) continue;
    const begun = readBegun(join(dir, importFile));
    if (begun !== null && !isNamed(begun.id)) await giveUp(begun, storage);
    await rm(dir, { recursive: true, force: true });
  }
}

/** One that was committed and never got its name is a timeline that nobody asked for. */
async function giveUp({ id, importId }: BegunImport, storage: TransferStorage): Promise<void> {
  await storage.importPeer.abort(id, importId).catch((error: unknown) => {
    if (!isPageliteError(error, 'notFound') && !isPageliteError(error, 'fenced')) throw error;
  });
  const timelines = (await storage.listTenants()).includes(id.tenantId) ? await storage.listTimelines(id.tenantId) : [];
  if (timelines.some(({ timelineId: known }) => known === id.timelineId)) await storage.deleteTimeline(id);
}

function readBegun(path: string): BegunImport | null {
  if (!existsSync(path)) return null;
  try {
    const json = JSON.parse(readFileSync(path, 'utf8'));
    const id = { tenantId: tenantId(json.tenantId), timelineId: timelineId(json.timelineId) };
    return { id, importId: String(json.importId) };
  } catch {
    // Cut off while it was written: the pageserver gives the import up by itself, after some days.
    return null;
  }
}
