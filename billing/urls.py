"""Paths of billing, below /api/v1/."""

from django.urls import path

from billing.api.account import BillingStanding, PriceList
from billing.api.budgets import BudgetById, Budgets
from billing.api.details import Details
from billing.api.invoices import InvoiceCsv, InvoicePdf, InvoiceProof, Invoices, OneInvoice
from billing.api.payments import Checkouts, OneCheckout, StripeEvents
from billing.api.subscription import OneSubscription, Plans, SubscriptionQuote
from billing.api.topups import AutoTopUps
from billing.views.billing import (
    Billing,
    OpenCheckout,
    RemoveBudget,
    SetBudget,
    SetDetails,
    WaitForCheckout,
)
from billing.views.documents import Checker, Document, Proof, Usage
from billing.views.founding import NewOrganization
from billing.views.plan import CancelPlan, ChoosePlan
from billing.views.topups import SetAutoTopUp, StopAutoTopUp

pages = [path("organizations/new", NewOrganization.as_view(), name="new-organization")]
portal = [
    path("billing", Billing.as_view(), name="billing"),
    path("billing/plan", ChoosePlan.as_view(), name="billing-plan"),
    path("billing/plan/cancel", CancelPlan.as_view(), name="billing-cancel-plan"),
    path("billing/checkouts", OpenCheckout.as_view(), name="billing-open-checkout"),
    path("billing/checkouts/<uuid:identifier>", WaitForCheckout.as_view(), name="billing-checkout"),
    path("billing/auto-top-up", SetAutoTopUp.as_view(), name="billing-auto-top-up"),
    path("billing/auto-top-up/stop", StopAutoTopUp.as_view(), name="billing-stop-auto-top-up"),
    path("billing/invoices/<str:number>.pdf", Document.as_view(), name="billing-document"),
    path("billing/invoices/<str:number>.csv", Usage.as_view(), name="billing-usage"),
    path("billing/invoices/<str:number>.ndjson", Proof.as_view(), name="billing-proof"),
    path("billing/merkle.py", Checker.as_view(), name="billing-checker"),
    path("billing/details", SetDetails.as_view(), name="billing-set-details"),
    path("billing/budgets", SetBudget.as_view(), name="billing-set-budget"),
    path(
        "billing/budgets/<int:identifier>/remove",
        RemoveBudget.as_view(),
        name="billing-remove-budget",
    ),
]
urlpatterns = [
    path("stripe/events", StripeEvents.as_view()),
    path("budgets", Budgets.as_view()),
    path("budgets/<int:identifier>", BudgetById.as_view()),
    path("billing/checkouts", Checkouts.as_view()),
    path("billing/checkouts/<uuid:identifier>", OneCheckout.as_view()),
    path("plans", Plans.as_view()),
    path("billing/subscription", OneSubscription.as_view()),
    path("billing/subscription/quote", SubscriptionQuote.as_view()),
    path("billing/details", Details.as_view()),
    path("billing/auto-top-up", AutoTopUps.as_view()),
    path("billing", BillingStanding.as_view()),
    path("prices", PriceList.as_view()),
    path("invoices", Invoices.as_view()),
    path("invoices/<str:number>.pdf", InvoicePdf.as_view()),
    path("invoices/<str:number>.csv", InvoiceCsv.as_view()),
    path("invoices/<str:number>/proof", InvoiceProof.as_view()),
    path("invoices/<str:number>", OneInvoice.as_view()),
]
