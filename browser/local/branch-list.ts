/**
 * Names of the tab's branches: which timeline a name means, where it began, and up to where the server has it. One object, `branches.json`, swapped
 * whole by compare-and-set, with its checksum as the index of a timeline has it.
 *
 * Invariants
 * - a timeline is made before its name and deleted after it: one without a name is what a killed tab left
 * - changes are made one after another
 */
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { isIdText, type TenantId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import type { ObjectStore } from '../../engine/services.ts';
import { decodeChecked, encodeChecked } from '../../engine/timeline/index-part.ts';

const key = 'branches.json';
const formatVersion = 1;
/** PostgreSQL-like names and git-like paths, as on the server. */
const nameShape = /^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$/;

/** Where a branch came from. Absent for a database of its own. */
export interface BranchOrigin {
  readonly place: 'server' | 'local';
  /** Its name when the branch was made; null if it had none. */
  readonly name: string | null;
  readonly timelineId: string;
}

export interface PushedState {
  /** Name on the server. */
  readonly name: string;
  readonly lsn: string;
}

export interface BranchRecord {
  readonly name: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly origin: BranchOrigin | null;
  readonly pushed: PushedState | null;
}

interface Content {
  readonly version: number;
  /** The tenant of databases that began in this tab. */
  readonly tenantId: string;
  readonly branches: readonly BranchRecord[];
}

export class BranchList {
  readonly #store: ObjectStore;
  #content: Content;
  #version: string;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(store: ObjectStore, content: Content, version: string) {
    this.#store = store;
    this.#content = content;
    this.#version = version;
  }

  /** Throws `corrupt` if the list is damaged: without it nobody knows what may be removed. */
  static async open(store: ObjectStore, newTenant: () => TenantId): Promise<BranchList> {
    const found = await store.get(key);
    if (found !== null) return new BranchList(store, decode(found.bytes), found.version);
    const content = { version: formatVersion, tenantId: newTenant(), branches: [] };
    return new BranchList(store, content, await store.put(key, encode(content), { ifAbsent: true }));
  }

  get tenantId(): TenantId {
    return this.#content.tenantId as TenantId;
  }

  /** In the order of their names. */
  get branches(): readonly BranchRecord[] {
    return this.#content.branches;
  }

  /** Throws `notFound` with the names there are. */
  get(name: string): BranchRecord {
    const found = this.branches.find((branch) => branch.name === name);
    if (found) return found;
    const known = this.branches.map((branch) => branch.name).join(', ');
    const hint = known === '' ? 'This tab has no branches yet' : `There is: ${known}`;
    throw new PageliteError('notFound', `no branch "${name}" in this tab. ${hint}`, { branch: name });
  }

  nameOf(timeline: string): string | null {
    return this.branches.find((branch) => branch.timelineId === timeline)?.name ?? null;
  }

  /** Throws `invalid` for a name that is malformed or taken. */
  checkNew(name: string): void {
    if (!nameShape.test(name) || name.includes('..') || isIdText(name)) {
      const shape = 'letters, digits, "_", "-", "." and "/", at most 128, beginning with a letter, a digit or "_"';
      throw new PageliteError('invalid', `"${name}" cannot be the name of a branch: ${shape}`, { branch: name });
    }
    if (this.branches.some((branch) => branch.name === name)) {
      throw new PageliteError('invalid', `branch "${name}" exists in this tab. Choose another name`, { branch: name });
    }
  }

  add(record: BranchRecord): Promise<void> {
    return this.#update((branches) => {
      this.checkNew(record.name);
      return [...branches, record];
    });
  }

  /** Changes the branch `name`, and adds `others`. */
  change(name: string, change: Partial<BranchRecord>, others: readonly BranchRecord[] = []): Promise<void> {
    return this.#update((branches) => [
      ...branches.map((branch) => (branch.name === name ? { ...branch, ...change } : branch)),
      ...others,
    ]);
  }

  remove(name: string): Promise<void> {
    return this.#update((branches) => branches.filter((branch) => branch.name !== name));
  }

  #update(change: (branches: readonly BranchRecord[]) => readonly BranchRecord[]): Promise<void> {
    const done = this.#last.then(async () => {
      const branches = [...change(this.branches)].sort((a, b) => (a.name < b.name ? -1 : 1));
      const content = { ...this.#content, branches };
      this.#version = await this.#store.put(key, encode(content), { ifVersion: this.#version });
      this.#content = content;
    });
    this.#last = done.catch(() => {});
    return done;
  }
}

export function timelineOf(record: BranchRecord): TenantTimelineId {
  return { tenantId: tenantId(record.tenantId), timelineId: timelineId(record.timelineId) };
}

const encode = (content: Content): Uint8Array => encodeChecked(JSON.stringify(content));

function decode(bytes: Uint8Array): Content {
  const bad = (problem: string, cause?: unknown) =>
    new PageliteError('corrupt', `the list of this tab's branches is damaged: ${problem}`, { file: key }, { cause });
  const line = decodeChecked(bytes);
  if (line === null) throw bad('wrong checksum');
  try {
    const content = JSON.parse(line) as Content;
    if (content.version !== formatVersion) {
      throw new PageliteError(
        'invalid',
        `the tab's branches are of version ${content.version}, this program reads ${formatVersion}`,
      );
    }
    tenantId(content.tenantId);
    for (const branch of content.branches) timelineOf(branch);
    return content;
  } catch (error) {
    if (error instanceof PageliteError && error.message.includes('version')) throw error;
    throw bad(messageOf(error), error);
  }
}
