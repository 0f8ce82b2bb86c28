/** `pagelite auth generate-token`: tokens for those who use the storage of a repository without this command line. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { PageliteError } from '../../engine/errors.ts';
import type { TenantId } from '../../engine/model/ids.ts';
import { parseDuration } from '../../engine/timeline/tenant-config.ts';
import { type Scope, scopes } from '../auth/claims.ts';
import { type CliContext, tenantArgument } from './context.ts';

const help = `
Examples:
  $ pagelite auth generate-token --scope tenant --tenant-id 9ef87a5bf0d92544f6fafeeb3239695c --expires-in 1h
  $ pagelite auth generate-token --scope pageserverapi --expires-in 10min --json
  $ curl -H "Authorization: Bearer $(pagelite auth generate-token --scope pageserverapi)" http://127.0.0.1:9898/v1/tenant

tenant opens one tenant on the pageserver and on the safekeepers, pageserverapi a whole pageserver, safekeeperdata whole safekeepers. The other
scopes are Neon's for services that are not here. A token cannot be taken back but by its time or with the key that signed it.`;

export function addAuthCommands(program: Command, context: CliContext): void {
  const auth = program.command('auth').description('manage access to the storage');
  auth
    .command('generate-token')
    .description('sign a token with the key of the repository, and print it')
    .addOption(new Option('--scope <scope>', 'what it opens').choices(scopes).makeOptionMandatory())
    .option('--tenant-id <id>', 'the tenant, for --scope tenant', tenantArgument)
    .option('--expires-in <time>', 'such as 90s, 10min, 1h, 30days (default: it does not expire)', durationArgument)
    .option('--json', 'as JSON, with its claims')
    .addHelpText('after', help)
    .action((options: TokenOptions) => generateToken(options, context));
}

interface TokenOptions {
  readonly scope: Scope;
  readonly tenantId?: TenantId;
  readonly expiresIn?: number;
  readonly json?: boolean;
}

function generateToken({ scope, tenantId, expiresIn, json }: TokenOptions, context: CliContext): void {
  if (scope === 'tenant' && tenantId === undefined) {
    throw new PageliteError('invalid', '--scope tenant needs --tenant-id: pagelite tenant list shows them');
  }
  if (scope !== 'tenant' && tenantId !== undefined) {
    throw new PageliteError('invalid', `--tenant-id is for --scope tenant: ${scope} is not about one tenant`);
  }
  const expiresAtMs = expiresIn === undefined ? undefined : Date.now() + expiresIn;
  const token = context.openRepository().signToken({
    scope,
    ...(tenantId !== undefined && { tenantId }),
    ...(expiresAtMs !== undefined && { expiresAtMs }),
  });
  if (token === null) {
    throw new PageliteError(
      'invalid',
      'this repository has no keys: its servers trust everybody. pagelite init --auth makes one that has',
    );
  }
  if (!json) context.say(token);
  else {
    const expires_at = expiresAtMs === undefined ? null : new Date(expiresAtMs).toISOString();
    context.sayJson({ token, scope, tenant_id: tenantId ?? null, expires_at });
  }
}

function durationArgument(text: string): number {
  const ms = parseDuration(text);
  if (ms === null || ms <= 0)
    throw new InvalidArgumentError(`"${text}" is not a time such as 90s, 10min, 1h or 30days`);
  return ms;
}
