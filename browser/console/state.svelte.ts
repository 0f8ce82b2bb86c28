/**
 * What the console shows, and what its parts do to it: the branches, the one that is open, and the long work that is under way.
 *
 * Invariants
 * - one branch is open at a time; opening another closes it, and a slow opening that was overtaken is closed when it arrives
 * - a branch on which an endpoint runs is opened for reading: the console fences nobody who did not ask for it
 * - every failure is shown where it happened, with its text; none is only in the browser's log
 */

import type { ServerBranch } from '../../engine/protocol/control-api.ts';
import type { BranchConnection, BranchInfo, ConnectOptions, NewBranch, PageliteTab, Progress } from '../api.ts';
import { serverBranches } from './control.ts';
import { branchKey } from './tree.ts';

export interface OpenBranch {
  readonly branch: BranchInfo;
  readonly connection: BranchConnection;
  /** Null: at its end. */
  readonly at: { readonly lsn: string; readonly time: Date | null } | null;
  /** Why it is open for reading alone though nobody asked for a moment. */
  readonly readOnlyBecause: string | null;
}

export type Opening =
  | { readonly kind: 'none' }
  /** `after`: the branch that is open yet, as a statement runs on it. */
  | { readonly kind: 'opening'; readonly branch: BranchInfo; readonly after: OpenBranch | null }
  | { readonly kind: 'open'; readonly open: OpenBranch }
  | { readonly kind: 'failed'; readonly branch: BranchInfo; readonly error: string };

export interface Work {
  readonly id: number;
  readonly title: string;
  progress: Progress | null;
  error: string | null;
  readonly abort: AbortController | null;
}

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export class ConsoleState {
  branches = $state.raw<readonly BranchInfo[]>([]);
  endpoints = $state.raw<ReadonlyMap<string, ServerBranch>>(new Map());
  loaded = $state(false);
  /** Why the list of branches may be old or lacks the server's. */
  listError = $state<string | null>(null);
  serverAway = $state(false);
  opening = $state.raw<Opening>({ kind: 'none' });
  startError = $state<string | null>(null);
  works = $state<Work[]>([]);
  storage = $state.raw<{ usedBytes: number; quotaBytes: number; cachedPages: number } | null>(null);

  #lite: PageliteTab | null = null;
  #turn = 0;
  #nextWork = 1;

  get lite(): PageliteTab {
    if (this.#lite === null) throw new Error('Pagelite is not open yet');
    return this.#lite;
  }

  /** The branch that is open, being opened, or could not be. */
  get current(): BranchInfo | null {
    const { opening } = this;
    return opening.kind === 'none' ? null : opening.kind === 'open' ? opening.open.branch : opening.branch;
  }

  get open(): OpenBranch | null {
    return this.opening.kind === 'open' ? this.opening.open : null;
  }

  async start(): Promise<void> {
    this.startError = null;
    try {
      const module = (await import('/pagelite/pagelite.js' as string)) as {
        Pagelite: { open(options: object): Promise<PageliteTab> };
      };
      this.#lite = await module.Pagelite.open({ server: location.origin });
      await this.refresh();
    } catch (error) {
      this.startError = messageOf(error);
    }
  }

  async refresh(): Promise<void> {
    if (this.#lite === null) return;
    const [branches, server] = await Promise.allSettled([this.#lite.branches(), serverBranches()]);
    this.serverAway = server.status === 'rejected';
    if (server.status === 'fulfilled') this.#know(server.value);
    if (branches.status === 'fulfilled') {
      this.branches = branches.value;
      this.loaded = true;
    }
    const failed = branches.status === 'rejected' ? branches : server.status === 'rejected' ? server : null;
    this.listError = failed && messageOf(failed.reason);
  }

  branchOf(key: string): BranchInfo | undefined {
    return this.branches.find((branch) => branchKey(branch) === key);
  }

  /** The endpoint that writes to the branch now, or null. */
  writerOf(branch: BranchInfo): string | null {
    const endpoints = this.endpoints.get(branch.timelineId)?.endpoints ?? [];
    return endpoints.find(({ status, readOnlyLsn }) => status === 'running' && readOnlyLsn === null)?.name ?? null;
  }

  /** An endpoint may have started since the list was last read. */
  async #writerNow(branch: BranchInfo): Promise<string | null> {
    try {
      this.#know(await serverBranches());
    } catch {
      // The server is away: what opens the branch says so.
    }
    return this.writerOf(branch);
  }

  #know(branches: Awaited<ReturnType<typeof serverBranches>>): void {
    this.endpoints = new Map(branches.map((branch) => [branch.timelineId, branch]));
  }

  /** `write`: even where an endpoint runs, which it fences. */
  async openBranch(branch: BranchInfo, options: { at?: Date; lsn?: string; write?: boolean } = {}): Promise<void> {
    const turn = ++this.#turn;
    await this.#closeOpen(branch);
    if (turn !== this.#turn) return;
    this.opening = { kind: 'opening', branch, after: null };
    try {
      const writer = branch.place === 'server' && !options.write ? await this.#writerNow(branch) : null;
      if (turn !== this.#turn) return;
      const moment = momentOf(branch, options, writer);
      const takeOver = options.write === true;
      const connection = await this.lite.connect(branch.name, { place: sideOf(branch), takeOver, ...moment });
      if (turn !== this.#turn) {
        await connection.close();
        return;
      }
      const readOnlyBecause =
        writer !== null && !options.at && !options.lsn
          ? `Endpoint "${writer}" writes to this branch. You see it as it was at ${connection.readOnlyLsn}.`
          : null;
      const { readOnlyLsn: lsn } = connection;
      const at = lsn === null || readOnlyBecause !== null ? null : { lsn, time: options.at ?? null };
      const open = { branch, connection, at, readOnlyBecause };
      this.opening = { kind: 'open', open };
      void connection.ended.then((error) => {
        if (this.open === open) this.opening = { kind: 'failed', branch, error: messageOf(error) };
      });
    } catch (error) {
      if (turn === this.#turn) this.opening = { kind: 'failed', branch, error: messageOf(error) };
    }
  }

  async closeBranch(): Promise<void> {
    const turn = ++this.#turn;
    await this.#closeOpen(null);
    if (turn === this.#turn) this.opening = { kind: 'none' };
  }

  /** Ends the statement that runs, and with it the session, as nothing else reaches a PostgreSQL that is busy in a worker; and opens the branch again. */
  async stop(): Promise<void> {
    const { open, opening } = this;
    if (opening.kind === 'opening') await opening.after?.connection.terminate();
    if (open === null) return;
    const { branch, at } = open;
    this.opening = { kind: 'opening', branch, after: null };
    await open.connection.terminate();
    await this.openBranch(branch, at === null ? {} : { lsn: at.lsn, ...(at.time && { at: at.time }) });
  }

  async createBranch(name: string, options: NewBranch): Promise<BranchInfo> {
    const made = await this.lite.branch(name, options);
    await this.refresh();
    return this.branches.find((branch) => branch.timelineId === made.timelineId) ?? made;
  }

  async resetBranch(branch: BranchInfo): Promise<void> {
    await this.#closeIf(branch);
    await this.lite.reset(branch.name, sideOf(branch));
    await this.refresh();
  }

  async deleteBranch(branch: BranchInfo): Promise<void> {
    await this.#closeIf(branch);
    await this.lite.delete(branch.name, sideOf(branch));
    await this.refresh();
  }

  push(branch: BranchInfo, as: string): Promise<void> {
    return this.#work(`Push ${branch.name}`, async (progress, signal) => {
      await this.lite.push(branch.name, { as, progress, signal });
    });
  }

  pull(branch: BranchInfo, as: string): Promise<void> {
    return this.#work(`Pull ${branch.name}`, async (progress, signal) => {
      await this.lite.pull(branch.name, { as, progress, signal });
    });
  }

  dismiss(work: Work): void {
    work.abort?.abort();
    this.works = this.works.filter(({ id }) => id !== work.id);
  }

  async measureStorage(): Promise<void> {
    // Of a tab that never made a branch there is nothing to measure.
    this.storage = await this.lite.storage().catch(() => null);
  }

  /** A connection for a look from elsewhere in the console; whoever asks closes it. */
  look(branch: BranchInfo): Promise<BranchConnection> {
    return this.lite.connect(branch.name, { place: sideOf(branch), ...(branch.lsn !== null && { lsn: branch.lsn }) });
  }

  async #work(
    title: string,
    run: (progress: (progress: Progress) => void, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const abort = new AbortController();
    const id = this.#nextWork++;
    this.works.push({ id, title, progress: null, error: null, abort });
    const entry = (): Work | undefined => this.works.find((work) => work.id === id);
    const onProgress = (progress: Progress) => {
      const work = entry();
      if (work) work.progress = progress;
    };
    try {
      await run(onProgress, abort.signal);
      this.works = this.works.filter((work) => work.id !== id);
    } catch (error) {
      const work = entry();
      if (work) work.error = messageOf(error);
    }
    await this.refresh();
  }

  async #closeIf({ timelineId }: BranchInfo): Promise<void> {
    if (this.current?.timelineId === timelineId) await this.closeBranch();
  }

  /** Waits for what is under way on it, and says so: `next` opens after it. */
  async #closeOpen(next: BranchInfo | null): Promise<void> {
    const after = this.opening.kind === 'opening' ? this.opening.after : this.open;
    if (after === null) return;
    if (next) this.opening = { kind: 'opening', branch: next, after };
    await after.connection.close().catch(() => {});
  }
}

export const sideOf = ({ place }: BranchInfo): 'server' | 'local' => (place === 'server' ? 'server' : 'local');

function momentOf(
  branch: BranchInfo,
  { at, lsn }: { at?: Date; lsn?: string },
  writer: string | null,
): Pick<ConnectOptions, 'at' | 'lsn'> {
  if (lsn !== undefined) return { lsn };
  if (at !== undefined) return { at };
  return writer !== null && branch.lsn !== null ? { lsn: branch.lsn } : {};
}
