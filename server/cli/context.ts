/** What a command gets: where to print, and the repository. */
import { InvalidArgumentError } from 'commander';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import { parseByteSize } from '../../engine/model/byte-size.ts';
import { type TenantId, type TimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { formatLsn, type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { parseTimestamp } from '../../engine/model/timestamp.ts';
import { parseOrigin } from '../console/config.ts';
import { Repository, repositoryDir } from '../control-plane/repository.ts';
import { HttpStorage } from '../control-plane/storage-clients.ts';
import { parseRemoteStorage, type RemoteStorage } from '../object-store/remote-storage.ts';
import type { ProgressOutput } from './progress.ts';

export interface Terminal {
  out(line: string): void;
  err(line: string): void;
  readonly env: NodeJS.ProcessEnv;
  /** For progress; absent: none is shown. */
  readonly progress?: ProgressOutput;
}

export class CliContext {
  readonly #terminal: Terminal;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
  }

  readonly say = (line: string): void => this.#terminal.out(line);
  readonly warn = (line: string): void => this.#terminal.err(line);

  get env(): NodeJS.ProcessEnv {
    return this.#terminal.env;
  }

  get progressOutput(): ProgressOutput {
    return this.#terminal.progress ?? { write: () => true };
  }

  sayJson(value: unknown): void {
    this.say(JSON.stringify(value, null, 2));
  }

  get repositoryDir(): string {
    return repositoryDir(this.#terminal.env);
  }

  openRepository(): Repository {
    return Repository.open(this.repositoryDir);
  }

  /** Runs `work` on the repository while no other command changes it. */
  changeRepository<T>(work: (repository: Repository) => Promise<T>): Promise<T> {
    const repository = this.openRepository();
    return repository.exclusively(() => work(repository));
  }

  storage(repository: Repository): HttpStorage {
    return new HttpStorage(repository);
  }
}

/** An argument parser for commander: what the parser refuses is a usage error that names the option. */
function argument<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      if (!isPageliteError(error)) throw error;
      throw new InvalidArgumentError(messageOf(error));
    }
  };
}

export const lsnArgument: (text: string) => Lsn = argument(parseLsn);
export const tenantArgument: (text: string) => TenantId = argument((text) => tenantId(text.toLowerCase()));
export const timelineArgument: (text: string) => TimelineId = argument((text) => timelineId(text.toLowerCase()));
export const originArgument: (text: string) => string = argument(parseOrigin);
export const remoteStorageArgument: (text: string) => RemoteStorage = argument(parseRemoteStorage);
export const byteSizeArgument: (text: string) => number = argument((text) => {
  const bytes = parseByteSize(text);
  if (bytes === null) throw new PageliteError('invalid', `"${text}" is not a size such as 500MB or 10GB`);
  return bytes;
});
export const timestampArgument: (text: string) => number = argument(parseTimestamp);

export function portArgument(text: string): number {
  const port = Number(text);
  if (!/^\d+$/.test(text) || port < 1 || port > 65535) {
    throw new InvalidArgumentError(`"${text}" is not a port: expected 1 to 65535`);
  }
  return port;
}

export function megabytesArgument(text: string): number {
  if (!/^\d{1,7}$/.test(text)) throw new InvalidArgumentError(`"${text}" is not a number of MB`);
  return Number(text);
}

export function nodeIdArgument(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError(`"${text}" is not a node id`);
  return Number(text);
}

export const formatLsnOrDash = (lsn: Lsn | null): string => (lsn === null ? '---' : formatLsn(lsn));
