/** `pagelite init`: makes the repository's folder and settings; nothing is started. */
import { randomInt } from 'node:crypto';
import { type Command, InvalidArgumentError } from 'commander';
import { quorumOf } from '../../engine/model/quorum.ts';
import { Repository } from '../control-plane/repository.ts';
import { shown } from '../control-plane/storage-processes.ts';
import { openRemoteStorage, type RemoteStorage } from '../object-store/remote-storage.ts';
import { byteSizeArgument, type CliContext, nodeIdArgument, remoteStorageArgument } from './context.ts';

const help = `
Examples:
  $ pagelite init
  $ PAGELITE_REPO_DIR=/srv/db pagelite init
  $ pagelite init --remote-storage s3://my-bucket/pagelite --disk-budget 20GB
  $ pagelite init --num-safekeepers 3
  $ pagelite init --auth                                 who uses the servers needs a token, who uses Postgres a password
  $ pagelite init --auth --listen-host 0.0.0.0
  $ AWS_ENDPOINT_URL=http://127.0.0.1:9000 pagelite init --remote-storage s3://my-bucket/pagelite

Ports are Neon's (pageserver 64000 and 9898, safekeepers from 5454 and 7676 on), or the next free ones.
A commit is acknowledged when more than half of the safekeepers have it on disk: of 3, one may be lost or away, of 5, two.
A bucket takes credentials, region and endpoint from the AWS environment variables, now and whenever the pageserver starts.`;

/** Ids are as long as a person can compare. */
const nodeIdLimit = 1_000_000;

export function addInitCommand(program: Command, context: CliContext): void {
  program
    .command('init')
    .description('make a repository in .pagelite of the current folder, or in PAGELITE_REPO_DIR')
    .option(
      '--remote-storage <url>',
      'where branches are stored: s3://bucket/prefix or file:///path (default: in the repository)',
      remoteStorageArgument,
    )
    .option(
      '--disk-budget <size>',
      'of the own disk, for what is kept of a bucket: 500MB, 10GB (default: 10GB)',
      byteSizeArgument,
    )
    .option(
      '--num-safekeepers <count>',
      'how many safekeepers hold the WAL, 1 to 9 (default: 1)',
      safekeeperCountArgument,
    )
    .option('--disable-wal-backup', 'do not keep the WAL in the remote storage, for `pagelite timeline recover`')
    .option('--auth', 'servers want tokens (pagelite auth generate-token), new endpoints want passwords')
    .option('--listen-host <address>', 'where pageserver and safekeepers listen, with --auth (default: 127.0.0.1)')
    .option('--pageserver-id <id>', 'its id among those that have the storage in common', nodeIdArgument)
    .addHelpText('after', help)
    .action(async (options: InitCommandOptions) => {
      // Before anything is made: whether it can be used at all.
      if (options.remoteStorage) await openRemoteStorage(options.remoteStorage, { mayCreate: true });
      const isShared = options.remoteStorage !== undefined;
      const { remoteStorage, diskBudget, numSafekeepers = 1 } = options;
      const repository = await Repository.init(context.repositoryDir, {
        pageserverId: options.pageserverId ?? (isShared ? randomInt(2, nodeIdLimit) : 1),
        safekeeperCount: numSafekeepers,
        walBackup: options.disableWalBackup !== true,
        ...(options.auth && { auth: true }),
        ...(options.listenHost !== undefined && { listenHost: options.listenHost }),
        ...(remoteStorage && { remoteStorage }),
        ...(diskBudget !== undefined && { diskBudgetBytes: diskBudget }),
      });
      const { pageserver } = repository.readConfig();
      const where = `'${repository.listenHost}:${pageserver.pgPort}' in "${shown(repository.dir)}"`;
      context.say(`Initializing pageserver node ${pageserver.id} at ${where}`);
      if (isShared) context.say(`Branches are stored in ${pageserver.remoteStorage}`);
      if (options.auth)
        context.say(`Its servers want tokens. They are signed with ${shown(repository.dir)}/auth_private_key.pem`);
      if (numSafekeepers > 1) context.say(toleranceOf(numSafekeepers));
    });
}

interface InitCommandOptions {
  readonly remoteStorage?: RemoteStorage;
  readonly diskBudget?: number;
  readonly pageserverId?: number;
  readonly numSafekeepers?: number;
  readonly disableWalBackup?: boolean;
  readonly auth?: boolean;
  readonly listenHost?: string;
}

function toleranceOf(count: number): string {
  const spare = count - quorumOf(count);
  const text = `${count} safekeepers: ${spare === 0 ? 'none' : spare} of them may be away`;
  return count % 2 === 0 ? `${text}, as with ${count - 1}. An odd number makes more of them` : text;
}

function safekeeperCountArgument(text: string): number {
  if (!/^[1-9]$/.test(text))
    throw new InvalidArgumentError(`"${text}" is not a number of safekeepers: expected 1 to 9`);
  return Number(text);
}
